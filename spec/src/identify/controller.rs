//! Identify Controller, CNS 01h (NVMe Base 2.0, figure 275; NVMe Base 2.1 for later fields).

use core::fmt;
use core::mem::{offset_of, size_of};
use std::borrow::Cow;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Anacap, Cmic, Ctratt, Fuses, Lpa, Oacs, Oaes, Ofcs, Oncs, Sgls, Vwc, zeroed_default};
use crate::registers::Version;
use crate::text;

/// What a controller is and can do.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyController {
    /// PCI vendor identifier.
    pub vid: U16,
    /// PCI subsystem vendor identifier.
    pub ssvid: U16,
    /// Serial number, ASCII padded with spaces.
    pub sn: [u8; 20],
    /// Model number, ASCII padded with spaces.
    pub mn: [u8; 40],
    /// Firmware revision, ASCII padded with spaces.
    pub fr: [u8; 8],
    /// Recommended arbitration burst, as a power of two.
    pub rab: u8,
    /// IEEE OUI of the vendor, least significant byte first.
    pub ieee: [u8; 3],
    /// Controller multi-path I/O and namespace sharing capabilities ([`Cmic`]).
    pub cmic: u8,
    /// Maximum data transfer size, as a power of two of the smallest memory page size; 0 is no limit.
    pub mdts: u8,
    /// Controller identifier.
    pub cntlid: U16,
    /// Version, as in the VS property.
    pub ver: U32,
    /// RTD3 resume latency in microseconds.
    pub rtd3r: U32,
    /// RTD3 entry latency in microseconds.
    pub rtd3e: U32,
    /// Optional asynchronous events supported ([`Oaes`]).
    pub oaes: U32,
    /// Controller attributes ([`Ctratt`]).
    pub ctratt: U32,
    /// Read recovery levels supported.
    pub rrls: U16,
    /// Boot partition capabilities.
    pub bpcap: u8,
    reserved103: u8,
    /// NVM subsystem shutdown latency in microseconds.
    pub nssl: U32,
    reserved108: [u8; 2],
    /// Power loss signaling information.
    pub plsi: u8,
    /// Controller type: see [`Self::TYPE_IO`] and its siblings.
    pub cntrltype: u8,
    /// FRU globally unique identifier.
    pub fguid: [u8; 16],
    /// Command retry delay time 1, in units of 100 ms.
    pub crdt1: U16,
    /// Command retry delay time 2, in units of 100 ms.
    pub crdt2: U16,
    /// Command retry delay time 3, in units of 100 ms.
    pub crdt3: U16,
    /// Controller reachability capabilities.
    pub crcap: u8,
    reserved135: [u8; 118],
    /// NVM subsystem report, of the management interface.
    pub nvmsr: u8,
    /// VPD write cycle information.
    pub vwci: u8,
    /// Management endpoint capabilities.
    pub mec: u8,
    /// Optional admin commands supported ([`Oacs`]).
    pub oacs: U16,
    /// Abort command limit, 0's based.
    pub acl: u8,
    /// Asynchronous event request limit, 0's based.
    pub aerl: u8,
    /// Firmware updates: slots and whether a reset is needed.
    pub frmw: u8,
    /// Log page attributes ([`Lpa`]).
    pub lpa: u8,
    /// Error log page entries, 0's based.
    pub elpe: u8,
    /// Number of power states, 0's based.
    pub npss: u8,
    /// Admin vendor specific command configuration.
    pub avscc: u8,
    /// Autonomous power state transition attributes.
    pub apsta: u8,
    /// Warning composite temperature threshold in kelvin.
    pub wctemp: U16,
    /// Critical composite temperature threshold in kelvin.
    pub cctemp: U16,
    /// Maximum time for firmware activation, in units of 100 ms.
    pub mtfa: U16,
    /// Host memory buffer preferred size, in units of 4 KiB.
    pub hmpre: U32,
    /// Host memory buffer minimum size, in units of 4 KiB.
    pub hmmin: U32,
    /// Total NVM capacity in bytes, 128 bits ([`Self::total_capacity`]).
    pub tnvmcap: [u8; 16],
    /// Unallocated NVM capacity in bytes, 128 bits ([`Self::unallocated_capacity`]).
    pub unvmcap: [u8; 16],
    /// Replay protected memory block support.
    pub rpmbs: U32,
    /// Extended device self-test time in minutes.
    pub edstt: U16,
    /// Device self-test options.
    pub dsto: u8,
    /// Firmware update granularity in units of 4 KiB; 0 not reported, FFh no restriction.
    pub fwug: u8,
    /// Keep alive granularity, in units of 100 ms; 0 when Keep Alive is not supported.
    pub kas: U16,
    /// Host controlled thermal management attributes.
    pub hctma: U16,
    /// Minimum thermal management temperature in kelvin.
    pub mntmt: U16,
    /// Maximum thermal management temperature in kelvin.
    pub mxtmt: U16,
    /// Sanitize capabilities.
    pub sanicap: U32,
    /// Host memory buffer minimum descriptor entry size, in units of 4 KiB.
    pub hmminds: U32,
    /// Host memory maximum descriptor entries.
    pub hmmaxd: U16,
    /// NVM set identifier maximum.
    pub nsetidmax: U16,
    /// Endurance group identifier maximum.
    pub endgidmax: U16,
    /// ANA transition time in seconds.
    pub anatt: u8,
    /// Asymmetric namespace access capabilities ([`Anacap`]).
    pub anacap: u8,
    /// ANA group identifier maximum.
    pub anagrpmax: U32,
    /// Number of ANA group identifiers.
    pub nanagrpid: U32,
    /// Persistent event log size, in units of 64 KiB.
    pub pels: U32,
    /// Domain identifier.
    pub domain_id: U16,
    /// Key per I/O capabilities.
    pub kpioc: u8,
    reserved359: u8,
    /// Maximum processing time for firmware activation without reset, in units of 100 ms.
    pub mptfawr: U16,
    reserved362: [u8; 6],
    /// Maximum endurance group capacity in bytes, 128 bits.
    pub megcap: [u8; 16],
    /// Temperature threshold hysteresis attributes.
    pub tmpthha: u8,
    reserved385: u8,
    /// Command quiesce time in milliseconds.
    pub cqt: U16,
    reserved388: [u8; 124],
    /// Submission queue entry sizes as powers of two: required in bits 3:0, maximum in bits 7:4.
    pub sqes: u8,
    /// Completion queue entry sizes as powers of two: required in bits 3:0, maximum in bits 7:4.
    pub cqes: u8,
    /// Maximum outstanding commands of a queue; required over fabrics.
    pub maxcmd: U16,
    /// Number of namespaces: the largest valid NSID.
    pub nn: U32,
    /// Optional NVM commands supported ([`Oncs`]).
    pub oncs: U16,
    /// Fused operation support ([`Fuses`]).
    pub fuses: U16,
    /// Format NVM attributes.
    pub fna: u8,
    /// Volatile write cache ([`Vwc`]).
    pub vwc: u8,
    /// Atomic write unit normal in blocks, 0's based.
    pub awun: U16,
    /// Atomic write unit power fail in blocks, 0's based.
    pub awupf: U16,
    /// I/O command set vendor specific command configuration.
    pub icsvscc: u8,
    /// Namespace write protection capabilities.
    pub nwpc: u8,
    /// Atomic compare and write unit in blocks, 0's based.
    pub acwu: U16,
    /// Copy descriptor formats supported, a bit each.
    pub ocfs: U16,
    /// SGL support ([`Sgls`]).
    pub sgls: U32,
    /// Maximum number of allowed namespaces; 0 when it is NN.
    pub mnan: U32,
    /// Maximum domain namespace attachments, 128 bits.
    pub maxdna: [u8; 16],
    /// Maximum I/O controller namespace attachments.
    pub maxcna: U32,
    /// Optimal aggregated queue depth.
    pub oaqd: U32,
    /// Recommended host-initiated refresh interval.
    pub rhiri: u8,
    /// Host-initiated refresh time.
    pub hirt: u8,
    /// Controller maximum memory range tracking descriptors.
    pub cmmrtd: U16,
    /// NVM subsystem maximum memory range tracking descriptors.
    pub nmmrtd: U16,
    /// Minimum memory range tracking granularity, as a power of two.
    pub minmrtg: u8,
    /// Maximum memory range tracking granularity, as a power of two.
    pub maxmrtg: u8,
    /// Tracking attributes.
    pub trattr: u8,
    reserved577: u8,
    /// Maximum controller user data migration queues.
    pub mcudmq: U16,
    /// Maximum NVM subsystem user data migration queues.
    pub mnsudmq: U16,
    /// Maximum controller data queue memory ranges.
    pub mcmr: U16,
    /// NVM subsystem maximum controller data queue memory ranges.
    pub nmcmr: U16,
    /// Maximum controller data queue PRP count.
    pub mcdqpc: U16,
    reserved588: [u8; 180],
    /// NVM subsystem NVMe qualified name, UTF-8 ended by a zero byte.
    pub subnqn: [u8; 256],
    reserved1024: [u8; 768],
    /// I/O queue command capsule supported size in units of 16 bytes; fabrics only.
    pub ioccsz: U32,
    /// I/O queue response capsule supported size in units of 16 bytes; fabrics only.
    pub iorcsz: U32,
    /// In-capsule data offset in units of 16 bytes; fabrics only.
    pub icdoff: U16,
    /// Fabrics controller attributes: bit 0 set is a static controller.
    pub fcatt: u8,
    /// Maximum SGL data block descriptors in a capsule; 0 is no limit. Fabrics only.
    pub msdbd: u8,
    /// Optional fabrics commands supported ([`Ofcs`]).
    pub ofcs: U16,
    /// Discovery controller type.
    pub dctype: u8,
    reserved1807: [u8; 241],
    /// Power state descriptors; NPSS + 1 of them are valid.
    pub psd: [PowerStateDescriptor; 32],
    /// The vendor's.
    pub vs: [u8; 1024],
}

const _: () = {
    assert!(size_of::<IdentifyController>() == 4096);
    assert!(offset_of!(IdentifyController, rab) == 72);
    assert!(offset_of!(IdentifyController, mdts) == 77);
    assert!(offset_of!(IdentifyController, ver) == 80);
    assert!(offset_of!(IdentifyController, ctratt) == 96);
    assert!(offset_of!(IdentifyController, cntrltype) == 111);
    assert!(offset_of!(IdentifyController, crdt1) == 128);
    assert!(offset_of!(IdentifyController, nvmsr) == 253);
    assert!(offset_of!(IdentifyController, oacs) == 256);
    assert!(offset_of!(IdentifyController, wctemp) == 266);
    assert!(offset_of!(IdentifyController, tnvmcap) == 280);
    assert!(offset_of!(IdentifyController, rpmbs) == 312);
    assert!(offset_of!(IdentifyController, kas) == 320);
    assert!(offset_of!(IdentifyController, sanicap) == 328);
    assert!(offset_of!(IdentifyController, anatt) == 342);
    assert!(offset_of!(IdentifyController, domain_id) == 356);
    assert!(offset_of!(IdentifyController, megcap) == 368);
    assert!(offset_of!(IdentifyController, sqes) == 512);
    assert!(offset_of!(IdentifyController, nn) == 516);
    assert!(offset_of!(IdentifyController, oncs) == 520);
    assert!(offset_of!(IdentifyController, vwc) == 525);
    assert!(offset_of!(IdentifyController, sgls) == 536);
    assert!(offset_of!(IdentifyController, maxcna) == 560);
    assert!(offset_of!(IdentifyController, mcudmq) == 578);
    assert!(offset_of!(IdentifyController, subnqn) == 768);
    assert!(offset_of!(IdentifyController, ioccsz) == 1792);
    assert!(offset_of!(IdentifyController, icdoff) == 1800);
    assert!(offset_of!(IdentifyController, ofcs) == 1804);
    assert!(offset_of!(IdentifyController, dctype) == 1806);
    assert!(offset_of!(IdentifyController, psd) == 2048);
    assert!(offset_of!(IdentifyController, vs) == 3072);
};

zeroed_default!(IdentifyController);

impl IdentifyController {
    /// CNTRLTYPE: an I/O controller.
    pub const TYPE_IO: u8 = 1;
    /// CNTRLTYPE: a discovery controller.
    pub const TYPE_DISCOVERY: u8 = 2;
    /// CNTRLTYPE: an administrative controller.
    pub const TYPE_ADMINISTRATIVE: u8 = 3;

    /// The serial number without its padding.
    #[must_use]
    pub fn serial(&self) -> Cow<'_, str> {
        text::padded(&self.sn)
    }

    /// The model number without its padding.
    #[must_use]
    pub fn model(&self) -> Cow<'_, str> {
        text::padded(&self.mn)
    }

    /// The firmware revision without its padding.
    #[must_use]
    pub fn firmware(&self) -> Cow<'_, str> {
        text::padded(&self.fr)
    }

    /// The NVMe qualified name of the subsystem; empty when an old drive reports none.
    #[must_use]
    pub fn subnqn(&self) -> Cow<'_, str> {
        text::terminated(&self.subnqn)
    }

    /// Sets the serial number, cut to 20 bytes.
    pub fn set_serial(&mut self, serial: &str) {
        text::fill(&mut self.sn, serial, b' ');
    }

    /// Sets the model number, cut to 40 bytes.
    pub fn set_model(&mut self, model: &str) {
        text::fill(&mut self.mn, model, b' ');
    }

    /// Sets the firmware revision, cut to 8 bytes.
    pub fn set_firmware(&mut self, firmware: &str) {
        text::fill(&mut self.fr, firmware, b' ');
    }

    /// Sets the subsystem's NVMe qualified name, cut to 255 bytes and ended by a zero byte.
    pub fn set_subnqn(&mut self, nqn: &str) {
        let (name, end) = self.subnqn.split_at_mut(255);
        text::fill(name, nqn, 0);
        end.fill(0);
    }

    /// The version of the base specification that the controller follows.
    #[must_use]
    pub const fn version(&self) -> Version {
        Version(self.ver.get())
    }

    /// Total NVM capacity in bytes; 0 when it is not reported.
    #[must_use]
    pub const fn total_capacity(&self) -> u128 {
        u128::from_le_bytes(self.tnvmcap)
    }

    /// Unallocated NVM capacity in bytes.
    #[must_use]
    pub const fn unallocated_capacity(&self) -> u128 {
        u128::from_le_bytes(self.unvmcap)
    }

    /// The largest transfer in bytes with this smallest page size in bytes (CAP.MPSMIN); `None` when there is
    /// no limit, or when it is beyond 64 bits, which comes to the same.
    #[must_use]
    pub const fn max_transfer(&self, smallest_page: u64) -> Option<u64> {
        if self.mdts == 0 || self.mdts as u32 > smallest_page.leading_zeros() {
            return None;
        }
        Some(smallest_page << self.mdts)
    }

    /// CMIC as flags.
    #[must_use]
    pub const fn cmic(&self) -> Cmic {
        Cmic::from_bits_retain(self.cmic)
    }

    /// OAES as flags.
    #[must_use]
    pub const fn oaes(&self) -> Oaes {
        Oaes::from_bits_retain(self.oaes.get())
    }

    /// CTRATT as flags.
    #[must_use]
    pub const fn ctratt(&self) -> Ctratt {
        Ctratt::from_bits_retain(self.ctratt.get())
    }

    /// OACS as flags.
    #[must_use]
    pub const fn oacs(&self) -> Oacs {
        Oacs::from_bits_retain(self.oacs.get())
    }

    /// LPA as flags.
    #[must_use]
    pub const fn lpa(&self) -> Lpa {
        Lpa::from_bits_retain(self.lpa)
    }

    /// ANACAP as flags.
    #[must_use]
    pub const fn anacap(&self) -> Anacap {
        Anacap::from_bits_retain(self.anacap)
    }

    /// ONCS as flags.
    #[must_use]
    pub const fn oncs(&self) -> Oncs {
        Oncs::from_bits_retain(self.oncs.get())
    }

    /// FUSES as flags.
    #[must_use]
    pub const fn fuses(&self) -> Fuses {
        Fuses::from_bits_retain(self.fuses.get())
    }

    /// VWC as flags.
    #[must_use]
    pub const fn vwc(&self) -> Vwc {
        Vwc::from_bits_retain(self.vwc)
    }

    /// SGLS as flags.
    #[must_use]
    pub const fn sgls(&self) -> Sgls {
        Sgls::from_bits_retain(self.sgls.get())
    }

    /// OFCS as flags.
    #[must_use]
    pub const fn ofcs(&self) -> Ofcs {
        Ofcs::from_bits_retain(self.ofcs.get())
    }
}

/// The identity and the numbers that matter most: all 4096 bytes would hide them.
impl fmt::Debug for IdentifyController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentifyController")
            .field("model", &self.model())
            .field("serial", &self.serial())
            .field("firmware", &self.firmware())
            .field("subnqn", &self.subnqn())
            .field("cntlid", &self.cntlid.get())
            .field("version", &format_args!("{}", self.version()))
            .field("mdts", &self.mdts)
            .field("nn", &self.nn.get())
            .field("oacs", &self.oacs())
            .field("oncs", &self.oncs())
            .finish_non_exhaustive()
    }
}

/// One power state (NVMe Base 2.0, figure 276).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PowerStateDescriptor {
    /// Maximum power, in centiwatts, or in units of 0.1 mW with bit 0 of `flags`.
    pub mp: U16,
    /// Reserved.
    pub reserved2: u8,
    /// Bit 0: scale of `mp`; bit 1: non-operational state.
    pub flags: u8,
    /// Entry latency in microseconds.
    pub enlat: U32,
    /// Exit latency in microseconds.
    pub exlat: U32,
    /// Relative read throughput, bits 4:0.
    pub rrt: u8,
    /// Relative read latency, bits 4:0.
    pub rrl: u8,
    /// Relative write throughput, bits 4:0.
    pub rwt: u8,
    /// Relative write latency, bits 4:0.
    pub rwl: u8,
    /// Idle power, in the scale of `ips`.
    pub idlp: U16,
    /// Idle power scale, bits 7:6.
    pub ips: u8,
    /// Reserved.
    pub reserved19: u8,
    /// Active power, in the scale of `aps`.
    pub actp: U16,
    /// Active power workload in bits 2:0, active power scale in bits 7:6.
    pub aps: u8,
    /// Emergency power fail and forced quiescence times, in later versions; else zero.
    pub rest: [u8; 9],
}

const _: () = assert!(size_of::<PowerStateDescriptor>() == 32);
const _: () = assert!(offset_of!(PowerStateDescriptor, aps) == 22);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_fields_lose_their_padding_and_keep_their_width() {
        let mut controller = IdentifyController::default();
        controller.set_serial("GW0001");
        controller.set_model("Emulated drive");
        controller.set_firmware("0.1.0-too-long");
        assert_eq!(controller.sn, *b"GW0001              ");
        assert_eq!(controller.serial(), "GW0001");
        assert_eq!(controller.model(), "Emulated drive");
        assert_eq!(controller.firmware(), "0.1.0-to");
    }

    #[test]
    fn the_subsystem_name_is_always_terminated() {
        let mut controller = IdentifyController::default();
        controller.subnqn.fill(b'x');
        controller.set_subnqn(&"n".repeat(300));
        assert_eq!(controller.subnqn().len(), 255);
        controller.set_subnqn("nqn.2014-08.org.example:a");
        assert_eq!(controller.subnqn(), "nqn.2014-08.org.example:a");
        assert!(controller.subnqn[25..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn fields_are_read_from_the_bytes_of_a_drive() {
        let mut bytes = vec![0u8; 4096];
        bytes[0..2].copy_from_slice(&[0x36, 0x1b]);
        bytes[80..84].copy_from_slice(&[0, 4, 1, 0]);
        bytes[520] = 0x5d;
        bytes[280 + 8] = 1;
        let controller = IdentifyController::read_from_bytes(&bytes).unwrap();
        assert_eq!(controller.vid.get(), 0x1b36);
        assert_eq!(controller.version(), Version::V1_4);
        assert!(controller.oncs().contains(Oncs::DATASET_MANAGEMENT | Oncs::COMPARE | Oncs::TIMESTAMP));
        assert!(!controller.oncs().contains(Oncs::WRITE_UNCORRECTABLE));
        assert_eq!(controller.total_capacity(), 1 << 64);
    }

    #[test]
    fn the_transfer_limit_cannot_overflow() {
        let mut controller = IdentifyController::default();
        assert_eq!(controller.max_transfer(4096), None);
        controller.mdts = 7;
        assert_eq!(controller.max_transfer(4096), Some(512 * 1024));
        controller.mdts = 51;
        assert_eq!(controller.max_transfer(4096), Some(1 << 63));
        controller.mdts = 52;
        assert_eq!(controller.max_transfer(4096), None);
        controller.mdts = 255;
        assert_eq!(controller.max_transfer(4096), None);
    }

    #[test]
    fn debug_output_shows_the_identity() {
        let mut controller = IdentifyController::default();
        controller.set_model("Emulated drive");
        controller.ver.set(0x0002_0000);
        let text = format!("{controller:?}");
        assert!(text.contains("Emulated drive") && text.contains("version: 2.0"), "{text}");
    }
}
