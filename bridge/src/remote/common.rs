//! What a controller in front of several drives can promise for all of its namespaces.
//!
//! Identify Controller is the primary's. But hosts go by it for namespaces of the other drives, too: one that is told of
//! no volatile cache sends no Flush, one that is told of larger atomic writes relies on them.

use std::sync::Arc;

use gangway_spec::feature::fid;
use gangway_spec::identify::{IdentifyController, NvmController, Oaes, Vwc};

use crate::drive::Drive;
use crate::export::Export;

/// FNA: Format NVM can erase cryptographically (NVMe Base 2.0, figure 275). The other bits say what a Format is about.
const CRYPTO_ERASE: u8 = 1 << 2;

/// FNA of all drives of an export.
pub(super) fn format_attributes(export: &Export) -> u8 {
    let drives = export.drives();
    let all = drives.iter().map(|drive| drive.info().identify.fna);
    all.reduce(both_attributes).unwrap_or(0)
}

/// Takes back from the primary's Identify Controller what one of the export's other drives does not keep.
pub(super) fn narrow_to_all(data: &mut IdentifyController, export: &Export) {
    for drive in &export.drives()[1..] {
        let other = &drive.info().identify;
        narrow(data, other);
        // Hosts are told of zones by the drive that has them.
        data.oaes |= other.oaes & Oaes::ZONE_DESCRIPTOR_CHANGED.bits();
    }
}

/// Whether a drive that joins an export keeps what its hosts were told without it.
pub(crate) fn keeps_promises(export: &Export, joining: &Drive) -> bool {
    let mut told = export.primary().info().identify.clone();
    narrow_to_all(&mut told, export);
    let mut kept = told.clone();
    narrow(&mut kept, &joining.info().identify);
    kept == told && least(&export.drives(), Some(joining)) == least(&export.drives(), None)
}

/// Limits that these drives keep (CNS 06h, CSI 00h), with one more. What else may be said there is promised for none.
pub(super) fn least(drives: &[Arc<Drive>], joining: Option<&Drive>) -> NvmController {
    let all = drives.iter().map(|drive| &**drive).chain(joining);
    least_of(all.filter_map(|drive| drive.info().nvm_limits.as_deref()))
}

fn least_of<'a>(all: impl Iterator<Item = &'a NvmController>) -> NvmController {
    // 0: there is no limit.
    fn lower<T: Copy + Ord + Default>(one: T, other: T) -> T {
        let limits = [one, other].into_iter().filter(|limit| *limit != T::default());
        limits.min().unwrap_or_default()
    }
    all.fold(NvmController::default(), |mut least, drive| {
        least.vsl = lower(least.vsl, drive.vsl);
        least.wzsl = lower(least.wzsl, drive.wzsl);
        least.wusl = lower(least.wusl, drive.wusl);
        least.dmrl = lower(least.dmrl, drive.dmrl);
        least.dmrsl = lower(least.dmrsl.get(), drive.dmrsl.get()).into();
        least.dmsl = lower(least.dmsl.get(), drive.dmsl.get()).into();
        least
    })
}

/// The drives of an export which have a feature that hosts rely on for all of its namespaces: whether there is a volatile
/// cache, whether Atomic Write Unit Normal counts for nothing. `None`: the feature is the primary's, or of a namespace.
///
/// Its bit is set when it is set for one of them: then a host does with all what one of them needs.
pub(super) fn having(export: &Export, feature: u8) -> Option<Vec<Arc<Drive>>> {
    let has = |drive: &&Arc<Drive>| match feature {
        fid::VOLATILE_WRITE_CACHE => drive.info().identify.vwc & Vwc::PRESENT.bits() != 0,
        _ => true,
    };
    let of_all = matches!(feature, fid::VOLATILE_WRITE_CACHE | fid::WRITE_ATOMICITY);
    (of_all && export.drives().len() > 1).then(|| export.drives().iter().filter(has).cloned().collect())
}

/// A Format of either is about as much as that of the one which takes more, and can do what both can.
fn both_attributes(one: u8, other: u8) -> u8 {
    (one | other) & !CRYPTO_ERASE | one & other & CRYPTO_ERASE
}

fn narrow(data: &mut IdentifyController, other: &IdentifyController) {
    data.vwc |= other.vwc & Vwc::PRESENT.bits();
    data.fna = both_attributes(data.fna, other.fna);
    for (unit, limit) in [
        (&mut data.awun, other.awun),
        (&mut data.awupf, other.awupf),
        // 0 is one block here, not that there is none.
        (&mut data.acwu, other.acwu),
    ] {
        *unit = (*unit).min(limit);
    }
    for (promises, also) in
        [(&mut data.oacs, other.oacs), (&mut data.oncs, other.oncs), (&mut data.ocfs, other.ocfs)]
    {
        *promises &= also;
    }
    data.ctratt &= other.ctratt;
    data.lpa &= other.lpa;
    data.nwpc &= other.nwpc;
    // A self-test of all takes as long as the slowest.
    data.edstt = data.edstt.max(other.edstt);
}

#[cfg(test)]
mod tests {
    use gangway_spec::identify::Oncs;

    use super::*;

    fn drive(vwc: Vwc, oncs: Oncs, units: [u16; 3], fna: u8) -> IdentifyController {
        let mut data = IdentifyController::default();
        (data.vwc, data.fna, data.oncs) = (vwc.bits(), fna, oncs.bits().into());
        [data.awun, data.awupf, data.acwu] = units.map(Into::into);
        data
    }

    #[test]
    fn the_least_of_the_limits_that_there_are_holds_for_all_drives() {
        let limits = |small: [u8; 4], dmrsl: u32, dmsl: u64| {
            let mut data = NvmController::default();
            [data.vsl, data.wzsl, data.wusl, data.dmrl] = small;
            (data.dmrsl, data.dmsl) = (dmrsl.into(), dmsl.into());
            data
        };
        let (one, other) = (limits([3, 5, 0, 16], 0, 1 << 40), limits([4, 2, 7, 0], 4096, 1 << 36));
        let both = limits([3, 2, 7, 16], 4096, 1 << 36);
        assert_eq!(least_of([&one, &other].into_iter()), both);
        assert_eq!(least_of([&other, &one].into_iter()), both);
        assert_eq!(least_of([&one].into_iter()), one);
        assert_eq!(least_of([].into_iter()), NvmController::default(), "no drive says anything");
    }

    #[test]
    fn of_two_drives_the_cache_of_either_and_the_promises_of_both_are_told() {
        let safe = drive(Vwc::FLUSH_ALL, Oncs::COMPARE | Oncs::VERIFY, [255, 0, 7], 0b101);
        let cached = drive(Vwc::PRESENT, Oncs::VERIFY | Oncs::COPY, [31, 3, 0], 0b010);
        for (mut data, other) in [(safe.clone(), &cached), (cached.clone(), &safe)] {
            narrow(&mut data, other);
            assert!(Vwc::from_bits_retain(data.vwc).contains(Vwc::PRESENT));
            assert_eq!(data.oncs.get(), Oncs::VERIFY.bits());
            assert_eq!([data.awun, data.awupf, data.acwu].map(|unit| unit.get()), [31, 0, 0]);
            assert_eq!(data.fna, 0b011, "of all, for either reason; cryptographic erase only one can");
        }
        let mut alike = cached.clone();
        narrow(&mut alike, &cached);
        assert_eq!(alike, cached);
    }
}
