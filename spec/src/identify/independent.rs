//! Identify Namespace independent of the I/O command set, CNS 08h (NVMe Base 2.0, 5.17.2.8).

use core::fmt;
use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{IdentifyNamespace, zeroed_default};

/// What all namespaces have, whatever their command set.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandSetIndependentNamespace {
    /// Namespace features; the bits differ from those of Identify Namespace.
    pub nsfeat: u8,
    /// Namespace multi-path I/O and sharing capabilities.
    pub nmic: u8,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Format progress indicator.
    pub fpi: u8,
    /// ANA group identifier.
    pub anagrpid: U32,
    /// Namespace attributes: bit 0 write protected.
    pub nsattr: u8,
    reserved9: u8,
    /// NVM set identifier.
    pub nvmsetid: U16,
    /// Endurance group identifier.
    pub endgid: U16,
    /// Namespace status ([`Self::NSTAT_READY`]).
    pub nstat: u8,
    /// Key per I/O status.
    pub kpios: u8,
    /// Maximum key tag.
    pub maxkt: U16,
    reserved18: [u8; 2],
    /// Reachability group identifier.
    pub rgrpid: U32,
    reserved24: [u8; 4072],
}

const _: () = assert!(size_of::<CommandSetIndependentNamespace>() == 4096);
const _: () = assert!(offset_of!(CommandSetIndependentNamespace, anagrpid) == 4);
const _: () = assert!(offset_of!(CommandSetIndependentNamespace, nvmsetid) == 10);
const _: () = assert!(offset_of!(CommandSetIndependentNamespace, nstat) == 14);
const _: () = assert!(offset_of!(CommandSetIndependentNamespace, rgrpid) == 20);

zeroed_default!(CommandSetIndependentNamespace);

impl CommandSetIndependentNamespace {
    /// NSFEAT: NGUID and EUI-64 are never used again for another namespace.
    pub const NSFEAT_IDENTIFIERS_NOT_REUSED: u8 = 1 << 3;
    /// NSFEAT: the namespace is stored on rotational media.
    pub const NSFEAT_ROTATIONAL: u8 = 1 << 4;
    /// NSFEAT: there is no volatile write cache for this namespace.
    pub const NSFEAT_NO_VOLATILE_WRITE_CACHE: u8 = 1 << 5;
    /// NSTAT: the namespace is ready for I/O.
    pub const NSTAT_READY: u8 = 1 << 0;
}

/// The same facts as Identify Namespace states them, with the namespace ready.
impl From<&IdentifyNamespace> for CommandSetIndependentNamespace {
    fn from(namespace: &IdentifyNamespace) -> Self {
        Self {
            nsfeat: namespace.nsfeat & Self::NSFEAT_IDENTIFIERS_NOT_REUSED,
            nmic: namespace.nmic,
            rescap: namespace.rescap,
            fpi: namespace.fpi,
            anagrpid: namespace.anagrpid,
            nsattr: namespace.nsattr,
            nvmsetid: namespace.nvmsetid,
            endgid: namespace.endgid,
            nstat: Self::NSTAT_READY,
            ..Self::default()
        }
    }
}

impl fmt::Debug for CommandSetIndependentNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandSetIndependentNamespace")
            .field("nsfeat", &self.nsfeat)
            .field("nmic", &self.nmic)
            .field("rescap", &self.rescap)
            .field("anagrpid", &self.anagrpid.get())
            .field("nsattr", &self.nsattr)
            .field("nstat", &self.nstat)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::Nsfeat;

    #[test]
    fn features_that_mean_something_else_here_are_left_out() {
        let mut namespace = IdentifyNamespace::default();
        namespace.nsfeat = (Nsfeat::OPTIMAL_IO | Nsfeat::IDENTIFIERS_NOT_REUSED).bits();
        namespace.nmic = 1;
        namespace.endgid.set(3);
        let independent = CommandSetIndependentNamespace::from(&namespace);
        assert_eq!(independent.nsfeat, CommandSetIndependentNamespace::NSFEAT_IDENTIFIERS_NOT_REUSED);
        assert_eq!((independent.nmic, independent.endgid.get(), independent.nstat), (1, 3, 1));
    }
}
