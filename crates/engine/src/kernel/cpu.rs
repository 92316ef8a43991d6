//! Which vector instructions this machine has.

use pulp::{Arch, WithSimd};

/// The instruction set to run kernels with, found once.
///
/// Results do not depend on it: see the [module](super). Machines without fused multiply-add run
/// the same arithmetic in software, correctly and very slowly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    arch: Arch,
}

impl Cpu {
    /// Asks the processor.
    pub(crate) fn detect() -> Self {
        Self { arch: Arch::new() }
    }

    /// Every instruction set that this machine has, software included.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        let mut sets = vec![Arch::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            sets.extend(pulp::x86::V3::try_new().map(Arch::V3));
            sets.extend(pulp::x86::V4::try_new().map(Arch::V4));
        }
        #[cfg(target_arch = "aarch64")]
        sets.extend(pulp::aarch64::Neon::try_new().map(Arch::Neon));
        sets.into_iter().map(|arch| Self { arch }).collect()
    }

    /// The name of the instruction set, for people.
    pub(crate) fn name(self) -> &'static str {
        #[cfg(target_arch = "x86_64")]
        match self.arch {
            Arch::V4(_) => "avx512",
            Arch::V3(_) => "avx2",
            _ => "scalar",
        }
        #[cfg(target_arch = "aarch64")]
        match self.arch {
            Arch::Neon(_) => "neon",
            _ => "scalar",
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        "scalar"
    }

    /// Runs `work`, compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn run<W: WithSimd>(self, work: W) -> W::Output {
        self.arch.dispatch(work)
    }
}
