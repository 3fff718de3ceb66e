//! The namespaces of a drive: which there are, and where their blocks lie in the store.

use gangway_spec::Status;
use gangway_spec::command::NSID_BROADCAST;

use super::config::EmulatedConfig;

/// All namespaces. They are alike and lie one behind the other; their identifiers count from 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Namespaces {
    count: u32,
    /// Logical blocks of each.
    pub(super) blocks: u64,
    block_shift: u32,
}

/// A range of blocks that lies inside a namespace, as bytes of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ByteRange {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Namespaces {
    pub(super) fn new(config: &EmulatedConfig) -> Self {
        let block_shift = config.block.trailing_zeros();
        Self { count: config.namespaces, blocks: config.size >> block_shift, block_shift }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// LBADS: the size of a logical block as a power of two.
    pub(super) fn block_shift(&self) -> u8 {
        self.block_shift as u8
    }

    /// Checks that an identifier names one namespace.
    ///
    /// # Errors
    /// Invalid Namespace or Format: there is none, or the identifier stands for all of them.
    #[inline]
    pub(super) fn check(&self, nsid: u32) -> Result<(), Status> {
        if nsid == 0 || nsid > self.count {
            return Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
        }
        Ok(())
    }

    /// As [`check`](Self::check), or the identifier that stands for all.
    ///
    /// # Errors
    /// Invalid Namespace or Format.
    pub(super) fn check_or_all(&self, nsid: u32) -> Result<(), Status> {
        if nsid == NSID_BROADCAST { Ok(()) } else { self.check(nsid) }
    }

    /// Where `blocks` logical blocks from `slba` on lie.
    ///
    /// # Errors
    /// Invalid Namespace or Format, LBA Out of Range.
    #[inline]
    pub(super) fn range(&self, nsid: u32, slba: u64, blocks: u64) -> Result<ByteRange, Status> {
        self.check(nsid)?;
        match slba.checked_add(blocks) {
            Some(end) if end <= self.blocks => Ok(ByteRange {
                offset: (u64::from(nsid - 1) * self.blocks + slba) << self.block_shift,
                len: blocks << self.block_shift,
            }),
            _ => Err(Status::LBA_OUT_OF_RANGE.with_dnr()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_each_namespace_follow_those_of_the_one_before() {
        let namespaces = Namespaces::new(&"size=1MiB,block=512,namespaces=3".parse().unwrap());
        assert_eq!(namespaces.range(1, 0, 1), Ok(ByteRange { offset: 0, len: 512 }));
        assert_eq!(namespaces.range(2, 0, 2048), Ok(ByteRange { offset: 1 << 20, len: 1 << 20 }));
        assert_eq!(namespaces.range(3, 2047, 1), Ok(ByteRange { offset: (3 << 20) - 512, len: 512 }));
    }

    #[test]
    fn ranges_that_leave_the_namespace_are_refused_even_when_they_overflow() {
        let namespaces = Namespaces::new(&"size=1MiB,block=512,namespaces=3".parse().unwrap());
        for (slba, blocks) in
            [(2048, 1), (2047, 2), (0, 2049), (u64::MAX, 1), (u64::MAX - 7, 8), (1 << 55, 1)]
        {
            assert_eq!(
                namespaces.range(1, slba, blocks),
                Err(Status::LBA_OUT_OF_RANGE.with_dnr()),
                "{slba}+{blocks}"
            );
        }
        for nsid in [0, 4, NSID_BROADCAST] {
            let refused = Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
            assert_eq!(namespaces.range(nsid, 0, 1), refused);
        }
    }
}
