//! The fields of Identify Controller, with nvme-cli's names.

use gangway_spec::IdentifyController;
use gangway_spec::identify::PowerStateDescriptor;

use crate::nvme::fields::Object;
use crate::output;

/// All fields, in nvme-cli's order.
pub(super) fn describe(c: &IdentifyController) -> Object {
    let mut object = Object::default();
    let o = &mut object;
    identity(o, c);
    admin(o, c);
    limits(o, c);
    io(o, c);
    let states = c.psd.iter().take(usize::from(c.npss) + 1);
    o.list("psds", states.map(power_state));
    object
}

fn identity(o: &mut Object, c: &IdentifyController) {
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    o.bits("vid", c.vid).bits("ssvid", c.ssvid);
    o.text("sn", text(&c.sn)).text("mn", text(&c.mn)).text("fr", text(&c.fr));
    o.number("rab", c.rab);
    let [low, middle, high] = c.ieee;
    let ieee = u32::from_le_bytes([low, middle, high, 0]);
    o.bits("ieee", ieee).shown(format!("{ieee:06x}"));
    o.bits("cmic", c.cmic).flags(c.cmic());
    o.number("mdts", c.mdts).notes(match c.max_transfer(4096) {
        Some(bytes) => vec![format!("{bytes} bytes with pages of 4096")],
        None => vec!["no limit".to_owned()],
    });
    o.bits("cntlid", c.cntlid).bits("ver", c.ver).notes([c.version().to_string()]);
    o.number("rtd3r", c.rtd3r.get()).notes(["us".to_owned()]);
    o.number("rtd3e", c.rtd3e.get()).notes(["us".to_owned()]);
    o.bits("oaes", c.oaes).flags(c.oaes()).bits("ctratt", c.ctratt).flags(c.ctratt());
    o.bits("rrls", c.rrls);
    o.number("cntrltype", c.cntrltype).notes(
        [
            (IdentifyController::TYPE_IO, "I/O controller"),
            (IdentifyController::TYPE_ADMINISTRATIVE, "administrative"),
        ]
        .iter()
        .filter(|(kind, _)| *kind == c.cntrltype)
        .map(|(_, name)| (*name).to_owned()),
    );
    o.text("fguid", uuid::Uuid::from_bytes(c.fguid).to_string());
    for (name, value) in [("crdt1", c.crdt1), ("crdt2", c.crdt2), ("crdt3", c.crdt3)] {
        o.number(name, value.get()).notes([format!("{} ms", u32::from(value.get()) * 100)]);
    }
    o.bits("nvmsr", c.nvmsr).bits("vwci", c.vwci).bits("mec", c.mec);
}

fn admin(o: &mut Object, c: &IdentifyController) {
    o.bits("oacs", c.oacs).flags(c.oacs());
    o.number("acl", c.acl).number("aerl", c.aerl);
    o.bits("frmw", c.frmw).notes([format!(
        "{} slots, the first is {}, activation without reset {}",
        c.frmw >> 1 & 7,
        if c.frmw & 1 != 0 { "read-only" } else { "writable" },
        if c.frmw & 0x10 != 0 { "supported" } else { "not supported" }
    )]);
    o.bits("lpa", c.lpa).flags(c.lpa());
    o.number("elpe", c.elpe).notes([format!("{} entries", u32::from(c.elpe) + 1)]);
    o.number("npss", c.npss).bits("avscc", c.avscc).bits("apsta", c.apsta);
    o.number("wctemp", c.wctemp.get()).notes(celsius(c.wctemp.get()));
    o.number("cctemp", c.cctemp.get()).notes(celsius(c.cctemp.get()));
    o.number("mtfa", c.mtfa.get()).notes([format!("{} ms", u32::from(c.mtfa.get()) * 100)]);
    o.number("hmpre", c.hmpre.get()).number("hmmin", c.hmmin.get());
    o.number("tnvmcap", c.total_capacity()).notes(capacity(c.total_capacity()));
    o.number("unvmcap", c.unallocated_capacity()).notes(capacity(c.unallocated_capacity()));
    o.bits("rpmbs", c.rpmbs);
    o.number("edstt", c.edstt.get()).notes(["minutes".to_owned()]);
    o.number("dsto", c.dsto).number("fwug", c.fwug);
    o.number("kas", c.kas.get()).notes([format!("{} ms", u32::from(c.kas.get()) * 100)]);
    o.bits("hctma", c.hctma).number("mntmt", c.mntmt.get()).number("mxtmt", c.mxtmt.get());
    o.bits("sanicap", c.sanicap).notes(sanitize(c.sanicap.get()));
}

fn limits(o: &mut Object, c: &IdentifyController) {
    o.number("hmminds", c.hmminds.get()).number("hmmaxd", c.hmmaxd.get());
    o.number("nsetidmax", c.nsetidmax.get()).number("endgidmax", c.endgidmax.get());
    o.number("anatt", c.anatt).number("anacap", c.anacap).flags(c.anacap());
    o.number("anagrpmax", c.anagrpmax.get()).number("nanagrpid", c.nanagrpid.get());
    o.number("pels", c.pels.get()).number("domainid", c.domain_id.get());
    o.number("megcap", u128::from_le_bytes(c.megcap));
}

fn io(o: &mut Object, c: &IdentifyController) {
    o.bits("sqes", c.sqes).bits("cqes", c.cqes).number("maxcmd", c.maxcmd.get());
    o.number("nn", c.nn.get());
    o.bits("oncs", c.oncs).flags(c.oncs()).bits("fuses", c.fuses).flags(c.fuses());
    o.bits("fna", c.fna).notes(
        [
            (1 << 0, "a format is for all namespaces"),
            (1 << 1, "a secure erase is for all namespaces"),
            (1 << 2, "cryptographic erase"),
        ]
        .iter()
        .filter(|(bit, _)| c.fna & bit != 0)
        .map(|(_, text)| (*text).to_owned()),
    );
    o.bits("vwc", c.vwc).flags(c.vwc());
    o.number("awun", c.awun.get()).number("awupf", c.awupf.get());
    o.number("icsvscc", c.icsvscc).number("nwpc", c.nwpc).number("acwu", c.acwu.get());
    o.bits("ocfs", c.ocfs).bits("sgls", c.sgls).flags(c.sgls());
    o.number("mnan", c.mnan.get())
        .number("maxdna", u128::from_le_bytes(c.maxdna))
        .number("maxcna", c.maxcna.get());
    let subnqn = c.subnqn();
    if !subnqn.is_empty() {
        o.text("subnqn", subnqn);
    }
    o.number("ioccsz", c.ioccsz.get()).number("iorcsz", c.iorcsz.get()).number("icdoff", c.icdoff.get());
    o.number("fcatt", c.fcatt).number("msdbd", c.msdbd).number("ofcs", c.ofcs.get()).flags(c.ofcs());
}

fn power_state(state: &PowerStateDescriptor) -> Object {
    let mut object = Object::default();
    let unit = if state.flags & 1 == 0 { 10_000 } else { 100 };
    object.number("max_power", state.mp.get()).shown(watts(u32::from(state.mp.get()) * unit));
    object.number("flags", state.flags);
    object.number("entry_lat", state.enlat.get()).number("exit_lat", state.exlat.get());
    object.number("read_tput", state.rrt).number("read_lat", state.rrl);
    object.number("write_tput", state.rwt).number("write_lat", state.rwl);
    object.number("idle_power", state.idlp.get()).number("idle_scale", state.ips >> 6);
    object.number("active_power", state.actp.get()).number("active_power_work", state.aps & 7);
    object.number("active_scale", state.aps >> 6);
    object
}

/// Watts from microwatts.
fn watts(micro: u32) -> String {
    format!("{}.{:04} W", micro / 1_000_000, micro % 1_000_000 / 100)
}

fn celsius(kelvin: u16) -> Vec<String> {
    if kelvin == 0 { vec!["not reported".to_owned()] } else { vec![format!("{} C", i32::from(kelvin) - 273)] }
}

fn capacity(bytes: u128) -> Vec<String> {
    u64::try_from(bytes).ok().filter(|&bytes| bytes > 0).map(output::size).into_iter().collect()
}

fn sanitize(capabilities: u32) -> Vec<String> {
    [
        (1 << 0, "crypto erase"),
        (1 << 1, "block erase"),
        (1 << 2, "overwrite"),
        (1 << 29, "no-deallocate inhibited"),
    ]
    .iter()
    .filter(|(bit, _)| capabilities & bit != 0)
    .map(|(_, text)| (*text).to_owned())
    .collect()
}
