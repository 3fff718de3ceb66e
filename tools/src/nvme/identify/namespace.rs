//! The fields of Identify Namespace, with nvme-cli's names.

use gangway_spec::IdentifyNamespace;
use gangway_spec::identify::{LbaFormat, Nsfeat};

use crate::nvme::fields::{Object, hex};
use crate::output;

/// All fields, in nvme-cli's order.
pub(super) fn describe(n: &IdentifyNamespace) -> Object {
    let mut object = Object::default();
    let o = &mut object;
    let block = u128::from(n.block_size().unwrap_or(0));
    for (name, blocks) in [("nsze", n.nsze), ("ncap", n.ncap), ("nuse", n.nuse)] {
        let bytes = u64::try_from(u128::from(blocks.get()) * block).unwrap_or(u64::MAX);
        o.number(name, blocks.get()).shown(format!("{:#x}", blocks.get())).notes([output::size(bytes)]);
    }
    o.bits("nsfeat", n.nsfeat).flags(n.nsfeat());
    o.number("nlbaf", n.nlbaf);
    o.bits("flbas", n.flbas).notes([format!(
        "LBA format {}, metadata {}",
        n.lba_format_index(),
        if n.is_extended() { "at the end of each block" } else { "in a buffer of its own" }
    )]);
    o.bits("mc", n.mc)
        .notes(bits(n.mc, &["metadata at the end of each block", "metadata in a buffer of its own"]));
    o.bits("dpc", n.dpc).notes(bits(
        n.dpc,
        &["protection type 1", "protection type 2", "protection type 3", "first 8 bytes", "last 8 bytes"],
    ));
    o.bits("dps", n.dps).notes([match n.dps & 7 {
        0 => "no protection information".to_owned(),
        kind => format!("protection type {kind}"),
    }]);
    o.bits("nmic", n.nmic).flags(n.nmic());
    o.bits("rescap", n.rescap).notes(bits(
        n.rescap,
        &[
            "persists through power loss",
            "write exclusive",
            "exclusive access",
            "write exclusive, registrants only",
            "exclusive access, registrants only",
            "write exclusive, all registrants",
            "exclusive access, all registrants",
            "ignore existing key",
        ],
    ));
    o.bits("fpi", n.fpi).notes(match n.fpi {
        fpi if fpi & 0x80 == 0 => vec!["the progress of a format is not reported".to_owned()],
        fpi => vec![format!("{} % of a format remain", fpi & 0x7f)],
    });
    o.number("dlfeat", n.dlfeat);
    o.number("nawun", n.nawun.get()).number("nawupf", n.nawupf.get()).number("nacwu", n.nacwu.get());
    o.number("nabsn", n.nabsn.get()).number("nabo", n.nabo.get()).number("nabspf", n.nabspf.get());
    o.number("noiob", n.noiob.get()).number("nvmcap", u128::from_le_bytes(n.nvmcap));
    o.number("nsattr", n.nsattr).notes(bits(n.nsattr, &["write protected"]));
    o.number("nvmsetid", n.nvmsetid.get());
    if n.nsfeat().contains(Nsfeat::OPTIMAL_IO) {
        o.number("npwg", n.npwg.get()).number("npwa", n.npwa.get()).number("npdg", n.npdg.get());
        o.number("npda", n.npda.get()).number("nows", n.nows.get());
    }
    o.number("mssrl", n.mssrl.get()).number("mcl", n.mcl.get()).number("msrc", n.msrc);
    o.number("nulbaf", n.nulbaf).number("anagrpid", n.anagrpid.get()).number("endgid", n.endgid.get());
    o.text("eui64", hex(&n.eui64)).text("nguid", hex(&n.nguid));
    let formats = n.lbaf.iter().take(usize::from(n.nlbaf) + 1).enumerate();
    let current = n.lba_format_index();
    o.list("lbafs", formats.map(|(index, lbaf)| format(lbaf, index == current)));
    object
}

fn format(lbaf: &LbaFormat, in_use: bool) -> Object {
    let mut object = Object::default();
    object.number("ms", lbaf.ms.get());
    object.number("ds", lbaf.lbads).shown(match lbaf.block_size() {
        Some(bytes) => format!("{} ({bytes} bytes)", lbaf.lbads),
        None => lbaf.lbads.to_string(),
    });
    let performance = ["best", "better", "good", "degraded"][usize::from(lbaf.rp & 3)];
    object.number("rp", lbaf.rp);
    object.shown(format!("{} ({performance}){}", lbaf.rp, if in_use { " in use" } else { "" }));
    object
}

/// The texts of the bits that are set.
fn bits(value: u8, texts: &[&str]) -> Vec<String> {
    let set = texts.iter().enumerate().filter(|(bit, _)| value >> bit & 1 == 1);
    set.map(|(_, text)| (*text).to_owned()).collect()
}
