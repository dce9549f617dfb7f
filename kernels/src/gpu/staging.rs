//! Bytes on their way to a device.

use std::mem::MaybeUninit;
use std::slice;

use cubecl::bytes::Bytes;
use cubecl::prelude::Client;
use cubecl_environment::bytes::{
    AccessError, AccessPolicy, AllocationController, AllocationProperty,
};

/// Fewer bytes are copied twice in less time than the device's thread takes to answer.
const LEAST_BYTES: usize = 1 << 16;

/// A copy of some bytes to give to the device: of many in memory that it reads by itself, where it has
/// such.
pub(super) fn staged(client: &Client, bytes: &[u8]) -> Bytes {
    if bytes.len() >= LEAST_BYTES {
        // SAFETY: `staging` copies the bytes, all of which are initialized, or leaves them; either way
        // they are dropped before this returns, and the slice is borrowed until then.
        let mut all = unsafe { Bytes::from_controller(Box::new(Borrowed(bytes)), bytes.len()) };
        client.staging(std::iter::once(&mut all), false);
        if all.property() != AllocationProperty::Other {
            return all;
        }
    }
    Bytes::from_bytes_vec(bytes.to_vec())
}

/// Bytes of somebody else, to be read only.
struct Borrowed(*const [u8]);

impl AllocationController for Borrowed {
    fn alloc_align(&self) -> usize {
        1
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(
        &mut self,
        _: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        Err(AccessError::Read("borrowed bytes are not written".to_owned()))
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        // SAFETY: whoever made it keeps the bytes until it is dropped; what is initialized may be seen as
        // what may not be.
        Ok(unsafe { slice::from_raw_parts(self.0.cast(), self.0.len()) })
    }
}
