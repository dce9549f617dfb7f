#![allow(unsafe_code, reason = "calls functions compiled for an instruction set that was detected")]
//! Which instruction set may run, and the macro that compiles one body for each.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use crate::amx;

/// The environment variable that forces a tier.
const VARIABLE: &str = "PIPELINE_KERNELS";

/// A set of CPU instructions, from the slowest to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// What every CPU of the architecture has.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors: AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with the int8 dot product.
    Vnni,
    /// The tile registers besides, with products of int8 and of bf16, and rounding to bf16.
    Amx,
}

impl Tier {
    /// Every tier, slowest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Vnni, Self::Amx];

    /// The name that `PIPELINE_KERNELS` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Vnni => "vnni",
            Self::Amx => "amx",
        }
    }

    /// Whether this CPU, and its operating system, can run the tier.
    #[must_use]
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            match self {
                Self::Portable => true,
                Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
                Self::Avx512 => {
                    Self::Avx2.is_available()
                        && is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512dq")
                        && is_x86_feature_detected!("avx512vl")
                }
                Self::Vnni => Self::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
                Self::Amx => {
                    Self::Vnni.is_available()
                        && is_x86_feature_detected!("avx512bf16")
                        && amx::is_available()
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Tier {
    type Err = TierError;

    fn from_str(name: &str) -> Result<Self, TierError> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.name() == name)
            .ok_or_else(|| TierError::Unknown { found: name.into() })
    }
}

/// Why a tier cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TierError {
    /// The name is not a tier's.
    #[error("expected a kernel tier (portable, avx2, avx512, vnni or amx), found `{found}`")]
    Unknown {
        /// What was given.
        found: String,
    },
    /// The tier exists, and cannot run here.
    #[error(
        "kernel tier `{wanted}` needs instructions that this CPU lacks or the system does not let \
         this process use; the best tier here is `{best}`"
    )]
    Unsupported {
        /// The tier asked for.
        wanted: Tier,
        /// The fastest tier that this CPU has.
        best: Tier,
    },
}

/// The proof that a tier's instructions are there. Kernels take it by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    tier: Tier,
}

impl Cpu {
    /// The fastest tier of this CPU; the environment is not asked.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Tier> = OnceLock::new();
        let tier = *BEST.get_or_init(|| {
            Tier::ALL.into_iter().rev().find(|tier| tier.is_available()).unwrap_or(Tier::Portable)
        });
        Self { tier }
    }

    /// The given tier.
    ///
    /// # Errors
    /// When this CPU lacks the tier.
    pub fn with_tier(tier: Tier) -> Result<Self, TierError> {
        if tier.is_available() {
            return Ok(Self { tier });
        }
        Err(TierError::Unsupported { wanted: tier, best: Self::best().tier })
    }

    /// The tier that `PIPELINE_KERNELS` forces, or else the fastest.
    ///
    /// # Errors
    /// When the variable names no tier, or one that this CPU lacks.
    pub fn from_environment() -> Result<Self, TierError> {
        static CHOICE: OnceLock<Result<Cpu, TierError>> = OnceLock::new();
        CHOICE.get_or_init(|| Self::choose(std::env::var_os(VARIABLE).as_deref())).clone()
    }

    fn choose(forced: Option<&std::ffi::OsStr>) -> Result<Self, TierError> {
        match forced.map(|name| name.to_string_lossy()) {
            None => Ok(Self::best()),
            Some(name) if name.is_empty() => Ok(Self::best()),
            Some(name) => Self::with_tier(name.parse()?),
        }
    }

    /// Every tier this CPU has, slowest first.
    pub fn every() -> impl Iterator<Item = Self> {
        Tier::ALL.into_iter().filter_map(|tier| Self::with_tier(tier).ok())
    }

    /// The tier that runs.
    #[must_use]
    pub const fn tier(self) -> Tier {
        self.tier
    }

    /// Whether products of bf16 are faster than those of `f32`.
    #[must_use]
    pub fn multiplies_bf16(self) -> bool {
        self.tier == Tier::Amx || self.has_fast_bf16_dot()
    }

    /// Whether the tier rounds to bf16 in one instruction (AVX512-BF16).
    pub(crate) fn rounds_to_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self.tier >= Tier::Avx512 && is_x86_feature_detected!("avx512bf16")
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }

    /// Whether the tier has the dot product of bf16 (AVX512-BF16), and gains by it. On Intel's CPUs it
    /// takes as long as four multiply-adds of `f32` (223 GFLOP/s were measured against 423), and
    /// replaces two; on AMD's as long as one.
    #[must_use]
    pub fn has_fast_bf16_dot(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            static FAST: OnceLock<bool> = OnceLock::new();
            let is_amd = || {
                let vendor = std::arch::x86_64::__cpuid(0);
                let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
                name.as_flattened() == b"AuthenticAMD"
            };
            self.tier == Tier::Vnni
                && *FAST.get_or_init(|| is_x86_feature_detected!("avx512bf16") && is_amd())
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }
}

/// Compiles one body for every instruction set and picks by a [`Cpu`].
///
/// The body is plain Rust that the compiler vectorises. Multiply-adds are fused where it says
/// `mul_add` and nowhere else, so all copies compute the same bits.
macro_rules! tiered {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$generic:ident: $bound:path>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name$(<$generic: $bound>)?(cpu: $crate::tier::Cpu, $($arg: $ty),*) $(-> $ret)? {
            #[allow(clippy::inline_always, reason = "the body must be compiled again inside each tier")]
            #[inline(always)]
            fn portable$(<$generic: $bound>)?($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2$(<$generic: $bound>)?($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512$(<$generic: $bound>)?($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }

            match cpu.tier() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a `Cpu` of this tier exists only where `Tier::is_available` found AVX2
                // and FMA.
                $crate::tier::Tier::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                $crate::tier::Tier::Avx512 | $crate::tier::Tier::Vnni | $crate::tier::Tier::Amx => {
                    // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found
                    // AVX-512 F, BW, DQ and VL.
                    unsafe { avx512($($arg),*) }
                }
                _ => portable($($arg),*),
            }
        }
    };
}
pub(crate) use tiered;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for tier in Tier::ALL {
            assert_eq!(tier.name().parse(), Ok(tier));
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        let error = "sse9".parse::<Tier>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected a kernel tier (portable, avx2, avx512, vnni or amx), found `sse9`"
        );
    }

    #[test]
    fn a_forced_tier_is_used_or_refused() {
        for tier in Tier::ALL {
            let chosen = Cpu::choose(Some(tier.name().as_ref()));
            assert_eq!(chosen.is_ok(), tier.is_available());
            assert!(chosen.is_err() || chosen == Ok(Cpu { tier }));
        }
        assert!(Cpu::choose(Some("amx9".as_ref())).is_err());
        assert_eq!(Cpu::choose(None), Ok(Cpu::best()));
        assert_eq!(Cpu::choose(Some("".as_ref())), Ok(Cpu::best()));
    }

    #[test]
    fn every_starts_portable_and_ends_best() {
        let tiers: Vec<_> = Cpu::every().map(Cpu::tier).collect();
        assert_eq!(tiers.first(), Some(&Tier::Portable));
        assert_eq!(tiers.last(), Some(&Cpu::best().tier()));
    }
}
