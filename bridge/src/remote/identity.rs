//! The identity that a host sees: the drive's own, but for the fields that are about the path to it, and without the
//! promises that the policy does not keep.

use gangway_fabric::keep_alive::KAS;
use gangway_spec::fabrics::Nqn;
use gangway_spec::feature::fid;
use gangway_spec::identify::{
    Cmic, CommandSetIndependentNamespace, Ctratt, Fuses, IdentifyController, IdentifyNamespace, Lpa, Nmic,
    Oacs, Oaes, Ofcs, Oncs, Sgls, Vwc,
};
use gangway_spec::log::lid;
use gangway_spec::opcode::{FIRST_VENDOR_IO, admin, nvm};
use gangway_spec::registers::Version;
use gangway_spec::reservation::Rescap;

use super::reach::Reach;
use super::{decide, limits};
use crate::admission::{ExportView, is_known};
use crate::policy::Policy;
use crate::policy::table::{self, Place};

/// What Identify Controller depends on besides the drive.
pub(crate) struct Identity<'a> {
    pub(crate) cntlid: u16,
    pub(crate) subsystem: &'a Nqn,
    pub(crate) version: Version,
    /// What the export shows.
    pub(crate) view: &'a ExportView,
    /// What the host may do.
    pub(crate) policy: &'a Policy,
    /// FNA: what a Format of its drives is about.
    pub(crate) fna: u8,
    /// What its namespaces can do about reservations.
    pub(crate) rescap: Rescap,
}

impl Identity<'_> {
    /// Whether the host can use an opcode of the admin command set, here or on the drive.
    pub(super) fn opens(&self, opcode: u8) -> bool {
        let reach = match opcode {
            admin::FORMAT_NVM => Reach::of_format(self.fna),
            _ => Reach::of_opcode(opcode),
        };
        self.policy.admin(opcode) && reach.is_within(self.view)
            || matches!(table::admin(opcode), Place::Here(_)) && opcode != admin::FABRICS
    }

    /// Whether the host can use an I/O command of a command set.
    pub(super) fn opens_io(&self, csi: u8, opcode: u8) -> bool {
        self.policy.io(opcode) && (is_known(csi, opcode) || opcode >= FIRST_VENDOR_IO && self.view.whole)
    }

    /// Whether the host can set a feature of the drive.
    pub(super) fn sets(&self, id: u8) -> bool {
        self.policy.sets_feature(id) && Reach::of_feature(id).is_within(self.view)
    }

    /// Whether the host can read a log page, here or from the drive.
    pub(super) fn reads(&self, id: u8) -> bool {
        decide::log_page_is_open(self.policy, self.view, id)
    }
}

/// The version to show for a drive of `version`: at least 1.2.1, which fabrics need, at most what is implemented here.
pub(crate) fn version(version: Version) -> Version {
    version.clamp(Version::V1_2_1, Version::V2_0)
}

/// Turns a drive's Identify Controller into the one that a host sees (NVMe Base 2.0, 5.17.2.1).
pub(crate) fn controller(data: &mut IdentifyController, identity: &Identity<'_>) {
    // Ours, because it is about the path.
    data.cntlid = identity.cntlid.into();
    data.set_subnqn(identity.subsystem.as_str());
    data.ver = identity.version.0.into();
    if identity.version >= Version::V1_4 {
        data.cntrltype = IdentifyController::TYPE_IO;
    }
    data.kas = KAS.into();
    // 0 would mean that there is no limit.
    data.mdts = ((identity.view.max_transfer / 4096).ilog2() as u8).max(1);
    if !identity.view.broadcast_flush {
        data.vwc = data.vwc & Vwc::PRESENT.bits() | Vwc::FLUSH_ALL_REPORTED.bits();
    }
    data.ioccsz = (limits::IN_CAPSULE_DATA / 16 + 4).into();
    data.iorcsz = 1.into();
    data.icdoff = 0.into();
    data.fcatt = 0;
    data.msdbd = 1;
    data.ofcs = Ofcs::DISCONNECT.bits().into();
    data.sgls = (Sgls::SUPPORTED | Sgls::OFFSET | Sgls::TRANSPORT).bits().into();
    data.maxcmd = limits::QUEUE_ENTRIES.into();
    data.sqes = 0x66;
    data.cqes = 0x44;
    data.aerl = limits::ASYNC_EVENT_REQUESTS - 1;
    data.acl = limits::ABORTS - 1;
    data.nn = identity.view.nn.into();
    if !identity.view.is_plain() {
        // As many as NN says.
        data.mnan = 0.into();
    }
    data.cmic = Cmic::MULTIPLE_CONTROLLERS.bits();
    // In units of 100 ms.
    data.crdt1 = ((limits::RETRY_AFTER_RESET.as_millis() / 100) as u16).into();
    data.crdt2 = ((limits::RETRY_WHILE_AWAY.as_millis() / 100) as u16).into();
    data.crdt3 = 0.into();

    promise(data, identity);
}

/// Takes back what the policy refuses, or this target has no place for.
fn promise(data: &mut IdentifyController, identity: &Identity<'_>) {
    let policy = identity.policy;
    let opens = |opcodes: &[u8]| opcodes.iter().all(|opcode| identity.opens(*opcode));
    let sets = |feature| identity.sets(feature);
    let mut oacs = Oacs::empty();
    oacs.set(Oacs::GET_LBA_STATUS, opens(&[admin::GET_LBA_STATUS]));
    oacs.set(Oacs::SECURITY, opens(&[admin::SECURITY_SEND, admin::SECURITY_RECEIVE]));
    oacs.set(Oacs::FIRMWARE, opens(&[admin::FIRMWARE_COMMIT, admin::FIRMWARE_IMAGE_DOWNLOAD]));
    oacs.set(Oacs::FORMAT_NVM, opens(&[admin::FORMAT_NVM]));
    oacs.set(Oacs::NAMESPACE_MANAGEMENT, opens(&[admin::NAMESPACE_MANAGEMENT, admin::NAMESPACE_ATTACHMENT]));
    oacs.set(Oacs::DEVICE_SELF_TEST, opens(&[admin::DEVICE_SELF_TEST]));
    data.oacs = (data.oacs.get() & oacs.bits()).into();
    let mut oncs = Oncs::empty();
    for (promise, opcode) in [
        (Oncs::COMPARE, nvm::COMPARE),
        (Oncs::WRITE_UNCORRECTABLE, nvm::WRITE_UNCORRECTABLE),
        (Oncs::DATASET_MANAGEMENT, nvm::DATASET_MANAGEMENT),
        (Oncs::WRITE_ZEROES, nvm::WRITE_ZEROES),
        (Oncs::VERIFY, nvm::VERIFY),
        (Oncs::COPY.union(Oncs::COPY_ATOMIC), nvm::COPY),
    ] {
        oncs.set(promise, policy.io(opcode));
    }
    oncs.set(Oncs::FEATURE_SAVE, policy.sets_any_feature());
    oncs.set(Oncs::TIMESTAMP, sets(fid::TIMESTAMP));
    // Reservations are kept here, whatever the drive can do.
    let ours = if policy.reserves() { Oncs::RESERVATIONS } else { Oncs::empty() };
    data.oncs = (data.oncs.get() & oncs.bits() | ours.bits()).into();
    // Which namespaces changed is told from here, of the rest what the drive tells and the host may read about.
    let mut oaes = Oaes::TEMPERATURE_HYSTERESIS;
    oaes.set(Oaes::FIRMWARE_ACTIVATION, identity.reads(lid::FIRMWARE_SLOT));
    oaes.set(Oaes::ZONE_DESCRIPTOR_CHANGED, identity.reads(lid::CHANGED_ZONE_LIST));
    data.oaes = (data.oaes.get() & oaes.bits() | Oaes::NAMESPACE_ATTRIBUTE.bits()).into();
    let ctratt =
        Ctratt::NVM_SETS | Ctratt::READ_RECOVERY_LEVELS | Ctratt::ENDURANCE_GROUPS | Ctratt::UUID_LIST;
    let ours = Ctratt::HOST_ID_128 | Ctratt::TRAFFIC_BASED_KEEP_ALIVE;
    data.ctratt = (data.ctratt.get() & ctratt.bits() | ours.bits()).into();
    // Area 4 of telemetry is asked for by Host Behavior Support, which is not forwarded.
    let mut lpa = Lpa::SMART_PER_NAMESPACE | Lpa::EXTENDED_DATA;
    let reads = |id| identity.reads(id);
    lpa.set(Lpa::TELEMETRY, reads(lid::TELEMETRY_HOST) && reads(lid::TELEMETRY_CONTROLLER));
    lpa.set(Lpa::COMMANDS_SUPPORTED_AND_EFFECTS, reads(lid::COMMANDS_SUPPORTED_AND_EFFECTS));
    lpa.set(Lpa::SUPPORTED_LOG_PAGES, reads(lid::SUPPORTED_LOG_PAGES));
    lpa.set(Lpa::PERSISTENT_EVENT, reads(lid::PERSISTENT_EVENT));
    data.lpa &= lpa.bits();
    data.fuses = Fuses::empty().bits().into();
    data.ocfs &= identity.view.copy_formats;
    data.hmpre = 0.into();
    data.hmmin = 0.into();
    data.hmminds = 0.into();
    data.hmmaxd = 0.into();
    data.rpmbs = 0.into();
    data.nvmsr = 0;
    data.mec = 0;
    data.anatt = 0;
    data.anacap = 0;
    data.anagrpmax = 0.into();
    data.nanagrpid = 0.into();
    data.crcap = 0;
    if !oacs.contains(Oacs::FIRMWARE) {
        // The number of firmware slots stays to be seen; activation without reset is not offered.
        data.frmw &= 0b1111;
    }
    if !oacs.contains(Oacs::DEVICE_SELF_TEST) {
        data.edstt = 0.into();
        data.dsto = 0;
    }
    if !sets(fid::APST) {
        data.apsta = 0;
    }
    if !sets(fid::HCTM) {
        data.hctma = 0.into();
        data.mntmt = 0.into();
        data.mxtmt = 0.into();
    }
    if !opens(&[admin::SANITIZE]) {
        data.sanicap = 0.into();
    }
    if !sets(fid::NAMESPACE_WRITE_PROTECTION) {
        data.nwpc = 0;
    }
    if !reads(lid::PERSISTENT_EVENT) {
        data.pels = 0.into();
    }
}

/// Turns a drive's Identify Namespace into the one that a host sees (NVM Command Set 1.0, 4.1.5.1).
pub(crate) fn namespace(data: &mut IdentifyNamespace, read_only: bool, rescap: Rescap) {
    if data.nsze.get() == 0 {
        // An inactive namespace is all zeroes, and stays so.
        return;
    }
    data.nmic |= Nmic::SHARED.bits();
    data.rescap = rescap.bits();
    data.anagrpid = 0.into();
    data.nsattr = u8::from(read_only);
}

/// The same for the structure of CNS 08h.
pub(crate) fn independent_namespace(
    data: &mut CommandSetIndependentNamespace,
    read_only: bool,
    rescap: Rescap,
) {
    data.nmic |= Nmic::SHARED.bits();
    data.rescap = rescap.bits();
    data.anagrpid = 0.into();
    data.nsattr = u8::from(read_only);
}
