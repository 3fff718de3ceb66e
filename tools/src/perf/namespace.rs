//! Whether a namespace can be measured, and how large a command may be.

use anyhow::{Context, ensure};
use gangway_spec::IdentifyNamespace;
use gangway_spec::nvm::MAX_BLOCKS;

use super::queue::Namespace;

/// The first of the active namespaces.
pub(crate) fn first(active: &[u32]) -> anyhow::Result<u32> {
    active.first().copied().context("there is no namespace")
}

/// What matters of a namespace. `max_transfer`: bytes that a command may transfer at most.
pub(crate) fn examine(
    nsid: u32,
    identify: &IdentifyNamespace,
    max_transfer: u64,
) -> anyhow::Result<Namespace> {
    let blocks = identify.nsze.get();
    ensure!(blocks > 0, "there is no namespace {nsid}");
    let block =
        identify.block_size().with_context(|| format!("namespace {nsid} has an unusable block size"))?;
    ensure!(identify.metadata_size() == 0, "namespace {nsid} has metadata, which is not supported");
    identify.size_in_bytes().with_context(|| format!("namespace {nsid} says that it has {blocks} blocks"))?;
    let max_transfer = max_transfer.min(u64::from(MAX_BLOCKS) * u64::from(block)).min(u64::from(u32::MAX));
    Ok(Namespace { nsid, block, blocks, max_transfer })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identify(blocks: u64, lbads: u8, metadata: u16) -> IdentifyNamespace {
        let mut identify = IdentifyNamespace::default();
        identify.nsze.set(blocks);
        identify.lbaf[0].lbads = lbads;
        identify.lbaf[0].ms.set(metadata);
        identify
    }

    #[test]
    fn a_command_is_limited_by_the_controller_and_by_its_block_count() {
        let limited = examine(1, &identify(8, 9, 0), 4096).unwrap();
        assert_eq!((limited.block, limited.blocks, limited.max_transfer), (512, 8, 4096));
        assert_eq!(examine(1, &identify(8, 9, 0), u64::MAX).unwrap().max_transfer, 512 << 16);
        assert_eq!(examine(1, &identify(8, 16, 0), u64::MAX).unwrap().max_transfer, u64::from(u32::MAX));
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for wrong in [identify(0, 9, 0), identify(8, 3, 0), identify(8, 9, 8), identify(u64::MAX, 9, 0)] {
            assert!(examine(1, &wrong, 4096).is_err());
        }
        assert!(first(&[]).is_err());
    }
}
