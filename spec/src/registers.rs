//! Controller registers of PCIe, which are properties over fabrics (NVMe Base 2.0, 3.1.3).

use core::fmt;

use bitfield_struct::bitfield;

/// Controller Capabilities, 8 bytes.
pub const CAP: u32 = 0x00;
/// Version, 4 bytes.
pub const VS: u32 = 0x08;
/// Interrupt Mask Set, 4 bytes; PCIe only.
pub const INTMS: u32 = 0x0c;
/// Interrupt Mask Clear, 4 bytes; PCIe only.
pub const INTMC: u32 = 0x10;
/// Controller Configuration, 4 bytes.
pub const CC: u32 = 0x14;
/// Controller Status, 4 bytes.
pub const CSTS: u32 = 0x1c;
/// NVM Subsystem Reset, 4 bytes.
pub const NSSR: u32 = 0x20;
/// Admin Queue Attributes, 4 bytes; PCIe only.
pub const AQA: u32 = 0x24;
/// Admin Submission Queue Base Address, 8 bytes; PCIe only.
pub const ASQ: u32 = 0x28;
/// Admin Completion Queue Base Address, 8 bytes; PCIe only.
pub const ACQ: u32 = 0x30;
/// Controller Memory Buffer Location, 4 bytes; PCIe only.
pub const CMBLOC: u32 = 0x38;
/// Controller Memory Buffer Size, 4 bytes; PCIe only.
pub const CMBSZ: u32 = 0x3c;
/// Boot Partition Information, 4 bytes.
pub const BPINFO: u32 = 0x40;
/// Boot Partition Read Select, 4 bytes.
pub const BPRSEL: u32 = 0x44;
/// Boot Partition Memory Buffer Location, 8 bytes.
pub const BPMBL: u32 = 0x48;
/// Controller Memory Buffer Memory Space Control, 8 bytes.
pub const CMBMSC: u32 = 0x50;
/// Controller Memory Buffer Status, 4 bytes.
pub const CMBSTS: u32 = 0x58;
/// Controller Memory Buffer Elasticity Buffer Size, 4 bytes.
pub const CMBEBS: u32 = 0x5c;
/// Controller Memory Buffer Sustained Write Throughput, 4 bytes.
pub const CMBSWTP: u32 = 0x60;
/// NVM Subsystem Shutdown, 4 bytes.
pub const NSSD: u32 = 0x64;
/// Controller Ready Timeouts, 4 bytes.
pub const CRTO: u32 = 0x68;
/// Persistent Memory Region Capabilities, 4 bytes; the first of the region's registers.
pub const PMRCAP: u32 = 0xe00;
/// Submission Queue 0 Tail Doorbell, the first of all doorbells; PCIe only.
pub const DOORBELLS: u32 = 0x1000;

/// What is written to [`NSSR`] to reset the NVM subsystem: "NVMe" in ASCII.
pub const NSSR_RESET: u32 = 0x4e56_4d65;

/// Offset of the tail doorbell of submission queue `queue`, with CAP.DSTRD `stride` (0 to 15).
#[must_use]
pub const fn submission_queue_tail_doorbell(queue: u16, stride: u8) -> u32 {
    doorbell(2 * queue as u64, stride)
}

/// Offset of the head doorbell of completion queue `queue`, with CAP.DSTRD `stride` (0 to 15).
#[must_use]
pub const fn completion_queue_head_doorbell(queue: u16, stride: u8) -> u32 {
    doorbell(2 * queue as u64 + 1, stride)
}

const fn doorbell(index: u64, stride: u8) -> u32 {
    // Largest: index 131071, stride 15, which is 2^34 and so beyond 32 bits. No controller has a BAR that
    // large; saturating keeps the result out of every BAR instead of wrapping into it.
    let offset = DOORBELLS as u64 + (index << (2 + (stride & 0xf)));
    if offset > u32::MAX as u64 { !3 } else { offset as u32 }
}

/// CAP: Controller Capabilities (NVMe Base 2.0, 3.1.3.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ControllerCapabilities {
    /// Maximum queue entries supported, 0's based.
    pub mqes: u16,
    /// Contiguous queues required.
    pub cqr: bool,
    /// Arbitration mechanisms supported: bit 0 weighted round robin, bit 1 the vendor's.
    #[bits(2)]
    pub ams: u8,
    #[bits(5)]
    __: u8,
    /// Worst-case time to become ready or to be disabled, in units of 500 ms.
    pub to: u8,
    /// Doorbell stride: 2 to the power of (2 + this) bytes.
    #[bits(4)]
    pub dstrd: u8,
    /// NVM subsystem reset supported.
    pub nssrs: bool,
    /// Command sets supported: see [`Self::CSS_NVM`] and its siblings.
    pub css: u8,
    /// Boot partitions supported.
    pub bps: bool,
    /// Controller power scope.
    #[bits(2)]
    pub cps: u8,
    /// Smallest memory page size: 2 to the power of (12 + this) bytes.
    #[bits(4)]
    pub mpsmin: u8,
    /// Largest memory page size: 2 to the power of (12 + this) bytes.
    #[bits(4)]
    pub mpsmax: u8,
    /// Persistent memory region supported.
    pub pmrs: bool,
    /// Controller memory buffer supported.
    pub cmbs: bool,
    /// NVM subsystem shutdown supported.
    pub nsss: bool,
    /// Controller ready modes supported: bit 0 ready with media, bit 1 ready independent of media.
    #[bits(2)]
    pub crms: u8,
    #[bits(3)]
    __: u8,
}

impl ControllerCapabilities {
    /// CSS: the NVM Command Set.
    pub const CSS_NVM: u8 = 1 << 0;
    /// CSS: one or more I/O command sets, as Identify reports them.
    pub const CSS_IO_COMMAND_SETS: u8 = 1 << 6;
    /// CSS: no I/O command set.
    pub const CSS_ADMIN_ONLY: u8 = 1 << 7;

    /// CRMS: ready when the media is ready.
    pub const CRMS_WITH_MEDIA: u8 = 1 << 0;
    /// CRMS: ready whether or not the media is.
    pub const CRMS_INDEPENDENT_OF_MEDIA: u8 = 1 << 1;
}

/// CC: Controller Configuration (NVMe Base 2.0, 3.1.3.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ControllerConfiguration {
    /// Enable.
    pub en: bool,
    #[bits(3)]
    __: u8,
    /// I/O command set selected: see [`Self::CSS_NVM`] and its siblings.
    #[bits(3)]
    pub css: u8,
    /// Memory page size: 2 to the power of (12 + this) bytes.
    #[bits(4)]
    pub mps: u8,
    /// Arbitration mechanism selected: 0 round robin, 1 weighted round robin, 7 the vendor's.
    #[bits(3)]
    pub ams: u8,
    /// Shutdown notification: see [`Self::SHN_NONE`] and its siblings.
    #[bits(2)]
    pub shn: u8,
    /// I/O submission queue entry size: 2 to the power of this, in bytes.
    #[bits(4)]
    pub iosqes: u8,
    /// I/O completion queue entry size: 2 to the power of this, in bytes.
    #[bits(4)]
    pub iocqes: u8,
    /// Controller ready independent of media enable.
    pub crime: bool,
    #[bits(7)]
    __: u8,
}

impl ControllerConfiguration {
    /// CSS: the NVM Command Set.
    pub const CSS_NVM: u8 = 0;
    /// CSS: all supported I/O command sets.
    pub const CSS_ALL: u8 = 6;
    /// CSS: admin commands only.
    pub const CSS_ADMIN_ONLY: u8 = 7;

    /// SHN: no notification.
    pub const SHN_NONE: u8 = 0;
    /// SHN: normal shutdown.
    pub const SHN_NORMAL: u8 = 1;
    /// SHN: abrupt shutdown.
    pub const SHN_ABRUPT: u8 = 2;
}

/// CSTS: Controller Status (NVMe Base 2.0, 3.1.3.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ControllerStatus {
    /// Ready.
    pub rdy: bool,
    /// Controller fatal status.
    pub cfs: bool,
    /// Shutdown status: see [`Self::SHST_NORMAL`] and its siblings.
    #[bits(2)]
    pub shst: u8,
    /// NVM subsystem reset occurred.
    pub nssro: bool,
    /// Processing paused.
    pub pp: bool,
    /// Shutdown type: set when the status is about an NVM subsystem shutdown.
    pub st: bool,
    #[bits(25)]
    __: u32,
}

impl ControllerStatus {
    /// SHST: normal operation, no shutdown requested.
    pub const SHST_NORMAL: u8 = 0;
    /// SHST: shutdown is under way.
    pub const SHST_OCCURRING: u8 = 1;
    /// SHST: shutdown is complete.
    pub const SHST_COMPLETE: u8 = 2;

    /// Whether this is what a read returns when the function no longer answers.
    #[must_use]
    pub const fn is_all_ones(self) -> bool {
        self.into_bits() == u32::MAX
    }
}

/// AQA: Admin Queue Attributes (NVMe Base 2.0, 3.1.3.8).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AdminQueueAttributes {
    /// Admin submission queue size in entries, 0's based.
    #[bits(12)]
    pub asqs: u16,
    #[bits(4)]
    __: u8,
    /// Admin completion queue size in entries, 0's based.
    #[bits(12)]
    pub acqs: u16,
    #[bits(4)]
    __: u8,
}

/// CRTO: Controller Ready Timeouts (NVMe Base 2.0, 3.1.3.20).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ControllerReadyTimeouts {
    /// Controller ready with media timeout, in units of 500 ms.
    pub crwmt: u16,
    /// Controller ready independent of media timeout, in units of 500 ms.
    pub crimt: u16,
}

/// VS, and the VER field of Identify Controller: the version of the base specification that a controller
/// follows (NVMe Base 2.0, 3.1.3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

impl Version {
    /// 1.0
    pub const V1_0: Self = Self::new(1, 0, 0);
    /// 1.1
    pub const V1_1: Self = Self::new(1, 1, 0);
    /// 1.2
    pub const V1_2: Self = Self::new(1, 2, 0);
    /// 1.2.1, the first with fabrics
    pub const V1_2_1: Self = Self::new(1, 2, 1);
    /// 1.3
    pub const V1_3: Self = Self::new(1, 3, 0);
    /// 1.4
    pub const V1_4: Self = Self::new(1, 4, 0);
    /// 2.0
    pub const V2_0: Self = Self::new(2, 0, 0);
    /// 2.1
    pub const V2_1: Self = Self::new(2, 1, 0);

    /// The version `major.minor.tertiary`.
    #[must_use]
    pub const fn new(major: u16, minor: u8, tertiary: u8) -> Self {
        Self((major as u32) << 16 | (minor as u32) << 8 | tertiary as u32)
    }

    /// The number before the first dot.
    #[must_use]
    pub const fn major(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The number after the first dot.
    #[must_use]
    pub const fn minor(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The number after the second dot, 0 when there is none.
    #[must_use]
    pub const fn tertiary(self) -> u8 {
        self.0 as u8
    }
}

impl From<u32> for Version {
    fn from(bits: u32) -> Self {
        Self(bits)
    }
}

impl From<Version> for u32 {
    fn from(version: Version) -> Self {
        version.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())?;
        if self.tertiary() != 0 {
            write!(f, ".{}", self.tertiary())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_of_cap_is_at_its_bits() {
        let fields = [
            (ControllerCapabilities::new().with_mqes(0xffff), 0, 16),
            (ControllerCapabilities::new().with_cqr(true), 16, 1),
            (ControllerCapabilities::new().with_ams(3), 17, 2),
            (ControllerCapabilities::new().with_to(0xff), 24, 8),
            (ControllerCapabilities::new().with_dstrd(0xf), 32, 4),
            (ControllerCapabilities::new().with_nssrs(true), 36, 1),
            (ControllerCapabilities::new().with_css(0xff), 37, 8),
            (ControllerCapabilities::new().with_bps(true), 45, 1),
            (ControllerCapabilities::new().with_cps(3), 46, 2),
            (ControllerCapabilities::new().with_mpsmin(0xf), 48, 4),
            (ControllerCapabilities::new().with_mpsmax(0xf), 52, 4),
            (ControllerCapabilities::new().with_pmrs(true), 56, 1),
            (ControllerCapabilities::new().with_cmbs(true), 57, 1),
            (ControllerCapabilities::new().with_nsss(true), 58, 1),
            (ControllerCapabilities::new().with_crms(3), 59, 2),
        ];
        for (cap, shift, width) in fields {
            assert_eq!(cap.into_bits(), ((1u64 << width) - 1) << shift, "{cap:?}");
        }
    }

    #[test]
    fn each_field_of_cc_and_csts_is_at_its_bits() {
        let cc = [
            (ControllerConfiguration::new().with_en(true), 0x1),
            (ControllerConfiguration::new().with_css(7), 0x70),
            (ControllerConfiguration::new().with_mps(0xf), 0x780),
            (ControllerConfiguration::new().with_ams(7), 0x3800),
            (ControllerConfiguration::new().with_shn(3), 0xc000),
            (ControllerConfiguration::new().with_iosqes(0xf), 0xf_0000),
            (ControllerConfiguration::new().with_iocqes(0xf), 0xf0_0000),
            (ControllerConfiguration::new().with_crime(true), 0x100_0000),
        ];
        for (value, bits) in cc {
            assert_eq!(value.into_bits(), bits);
        }
        let csts = ControllerStatus::from_bits(0x49);
        assert!(csts.rdy() && !csts.cfs() && csts.st() && !csts.pp() && !csts.nssro());
        assert_eq!(csts.shst(), ControllerStatus::SHST_COMPLETE);
        assert!(ControllerStatus::from_bits(u32::MAX).is_all_ones());
    }

    #[test]
    fn admin_queue_sizes_and_ready_timeouts_are_two_halves() {
        assert_eq!(AdminQueueAttributes::new().with_asqs(31).with_acqs(63).into_bits(), 0x003f_001f);
        let timeouts = ControllerReadyTimeouts::from_bits(0x0002_0014);
        assert_eq!((timeouts.crwmt(), timeouts.crimt()), (20, 2));
    }

    #[test]
    fn doorbells_follow_the_stride_and_never_wrap() {
        assert_eq!(submission_queue_tail_doorbell(0, 0), 0x1000);
        assert_eq!(completion_queue_head_doorbell(0, 0), 0x1004);
        assert_eq!(submission_queue_tail_doorbell(3, 0), 0x1018);
        assert_eq!(completion_queue_head_doorbell(3, 2), 0x1000 + 7 * 16);
        assert!(completion_queue_head_doorbell(u16::MAX, 15) > 0xffff_0000);
    }

    #[test]
    fn versions_read_and_compare_as_people_do() {
        assert_eq!(Version(0x0001_0400).to_string(), "1.4");
        assert_eq!(Version::V1_2_1.to_string(), "1.2.1");
        assert_eq!(u32::from(Version::V2_0), 0x0002_0000);
        assert!(Version::V1_2_1 < Version::V1_3 && Version::V1_4 < Version::V2_0);
        assert_eq!((Version::V1_2_1.major(), Version::V1_2_1.tertiary()), (1, 1));
    }
}
