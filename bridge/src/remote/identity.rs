//! The identity that a host sees: the drive's own, but for the fields that are about the path to it, and without the
//! promises that the policy does not keep.

use gangway_fabric::keep_alive::KAS;
use gangway_spec::fabrics::Nqn;
use gangway_spec::identify::{
    Cmic, CommandSetIndependentNamespace, Ctratt, Fuses, IdentifyController, IdentifyNamespace, Lpa, Nmic,
    Oacs, Oaes, Ofcs, Oncs, Sgls, Vwc,
};
use gangway_spec::registers::Version;

use super::limits;

/// What Identify Controller depends on besides the drive.
pub(crate) struct Identity<'a> {
    pub(crate) cntlid: u16,
    pub(crate) subsystem: &'a Nqn,
    pub(crate) version: Version,
    /// Bytes that one command may transfer at most.
    pub(crate) max_transfer: u32,
    /// Whether Flush may name all namespaces at once.
    pub(crate) broadcast_flush: bool,
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
    data.mdts = ((identity.max_transfer / 4096).ilog2() as u8).max(1);
    if !identity.broadcast_flush {
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
    data.cmic = Cmic::MULTIPLE_CONTROLLERS.bits();
    data.crdt1 = 0.into();
    data.crdt2 = 0.into();
    data.crdt3 = 0.into();

    // Not promised, because the policy refuses it or this target has no place for it.
    let keep = |bits: u32, kept: u32| bits & kept;
    data.oacs = (keep(data.oacs.get().into(), Oacs::GET_LBA_STATUS.bits().into()) as u16).into();
    let oncs = Oncs::COMPARE
        | Oncs::WRITE_UNCORRECTABLE
        | Oncs::DATASET_MANAGEMENT
        | Oncs::WRITE_ZEROES
        | Oncs::FEATURE_SAVE
        | Oncs::VERIFY
        | Oncs::COPY
        | Oncs::COPY_ATOMIC;
    data.oncs = (keep(data.oncs.get().into(), oncs.bits().into()) as u16).into();
    data.oaes = Oaes::empty().bits().into();
    let ctratt = Ctratt::NVM_SETS
        | Ctratt::READ_RECOVERY_LEVELS
        | Ctratt::ENDURANCE_GROUPS
        | Ctratt::UUID_LIST
        | Ctratt::MDTS_WITHOUT_METADATA;
    let ours = Ctratt::HOST_ID_128 | Ctratt::TRAFFIC_BASED_KEEP_ALIVE;
    data.ctratt = (keep(data.ctratt.get(), ctratt.bits()) | ours.bits()).into();
    let lpa = Lpa::SMART_PER_NAMESPACE
        | Lpa::COMMANDS_SUPPORTED_AND_EFFECTS
        | Lpa::EXTENDED_DATA
        | Lpa::SUPPORTED_LOG_PAGES;
    data.lpa &= lpa.bits();
    data.fuses = Fuses::empty().bits().into();
    // Copy formats 2h and 3h name source namespaces.
    data.ocfs = (data.ocfs.get() & 0b11).into();
    data.apsta = 0;
    data.hmpre = 0.into();
    data.hmmin = 0.into();
    data.hmminds = 0.into();
    data.hmmaxd = 0.into();
    data.rpmbs = 0.into();
    data.edstt = 0.into();
    data.dsto = 0;
    data.hctma = 0.into();
    data.mntmt = 0.into();
    data.mxtmt = 0.into();
    data.sanicap = 0.into();
    data.nwpc = 0;
    data.pels = 0.into();
    data.nvmsr = 0;
    data.mec = 0;
    data.anatt = 0;
    data.anacap = 0;
    data.anagrpmax = 0.into();
    data.nanagrpid = 0.into();
    data.crcap = 0;
    // The number of firmware slots stays to be seen; activation without reset is not offered.
    data.frmw &= 0b1111;
}

/// Turns a drive's Identify Namespace into the one that a host sees (NVM Command Set 1.0, 4.1.5.1).
pub(crate) fn namespace(data: &mut IdentifyNamespace, read_only: bool) {
    if data.nsze.get() == 0 {
        // An inactive namespace is all zeroes, and stays so.
        return;
    }
    data.nmic |= Nmic::SHARED.bits();
    data.rescap = 0;
    data.anagrpid = 0.into();
    data.nsattr = u8::from(read_only);
}

/// The same for the structure of CNS 08h.
pub(crate) fn independent_namespace(data: &mut CommandSetIndependentNamespace, read_only: bool) {
    data.nmic |= Nmic::SHARED.bits();
    data.rescap = 0;
    data.anagrpid = 0.into();
    data.nsattr = u8::from(read_only);
}
