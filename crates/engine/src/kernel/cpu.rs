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
