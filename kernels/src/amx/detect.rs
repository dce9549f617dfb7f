#![allow(unsafe_code, reason = "a system call that the standard library does not have")]
//! Whether tiles can be multiplied here.

use std::arch::asm;
use std::sync::OnceLock;

/// Whether the CPU multiplies tiles of int8 and bf16, and the system lets this process use them.
pub(crate) fn is_available() -> bool {
    /// Bits 22, 24 and 25 of leaf 7: AMX-BF16, AMX-TILE, AMX-INT8.
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let has_leaf = std::arch::x86_64::__cpuid(0).eax >= 7;
        has_leaf
            && std::arch::x86_64::__cpuid_count(7, 0).edx & FEATURES == FEATURES
            && request_tile_data()
    })
}

/// Asks Linux for the state of the tile registers, which it keeps from processes that do not ask,
/// since it is 8 KiB a thread. The answer holds for every thread, present and future.
#[cfg(target_os = "linux")]
fn request_tile_data() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: this system call takes two numbers and touches no memory of the process; one that
    // does not know it answers with an error. The instruction overwrites rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// How other systems lend the tile registers is not known here.
#[cfg(not(target_os = "linux"))]
fn request_tile_data() -> bool {
    false
}
