//! I/O command sets, and namespaces as their command set describes them.

use gangway_spec::identify::{
    CommandSetIndependentNamespace, CommandSets, Ctratt, IDENTIFY_LENGTH, IoCommandSets,
    NamespaceIdDescriptor, NvmController, NvmNamespace, Vwc, cns, csi,
};
use gangway_spec::nvm::BlockFormat;
use gangway_spec::registers::{ControllerCapabilities, Version};
use gangway_spec::zns::{IdentifyZonedController, IdentifyZonedNamespace};
use gangway_spec::{IdentifyNamespace, Status, SubmissionQueueEntry, feature, opcode};

use super::{AdminData, Controller, ControllerError};
use crate::dma::PAGE_SIZE;

/// An active namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its identifier.
    pub nsid: u32,
    /// The I/O command set it belongs to ([`csi`]).
    pub csi: u8,
    /// Its UUID (CNS 03h), where it has one.
    pub uuid: Option<[u8; 16]>,
    /// Identify Namespace (CNS 00h), of command sets that have logical blocks: NVM and Zoned Namespace.
    pub identify: Option<Box<IdentifyNamespace>>,
    /// How its blocks are formatted; `None` when it has none, or when what is said of them makes no sense.
    pub format: Option<BlockFormat>,
    /// What extended LBA formats add (CNS 05h, CSI 00h), where the controller has them.
    pub extended: Option<Box<NvmNamespace>>,
    /// What zones it has (CNS 05h, CSI 02h).
    pub zoned: Option<Box<IdentifyZonedNamespace>>,
    /// What all command sets have in common (CNS 08h), where the controller says it.
    pub independent: Option<Box<CommandSetIndependentNamespace>>,
}

impl Controller {
    /// The I/O command sets that are enabled. The NVM Command Set alone where the controller knows no others.
    pub fn command_sets(&self) -> CommandSets {
        self.command_sets
    }

    /// The active namespaces of all enabled command sets, by NSID, with what Identify says of each. One that goes while
    /// they are looked at is left out.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn namespaces(&mut self) -> Result<Vec<Namespace>, ControllerError> {
        let mut namespaces = Vec::new();
        for nsid in self.active_namespaces()? {
            match self.namespace(nsid) {
                Ok(namespace) => namespaces.push(namespace),
                Err(error @ ControllerError::Status { .. }) => {
                    if self.active_namespaces()?.contains(&nsid) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(namespaces)
    }

    /// What Identify says of one namespace.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn namespace(&mut self, nsid: u32) -> Result<Namespace, ControllerError> {
        let descriptors = self.descriptors(nsid)?;
        let csi = self.described_command_set(nsid, &descriptors)?;
        let uuid = described(&descriptors, NamespaceIdDescriptor::UUID).and_then(|uuid| uuid.try_into().ok());
        let mut namespace = Namespace {
            nsid,
            csi,
            uuid,
            identify: None,
            format: None,
            extended: None,
            zoned: None,
            independent: None,
        };
        if self.has_several_command_sets() {
            let common =
                self.optional(|this| this.identify_data(cns::COMMAND_SET_INDEPENDENT_NAMESPACE, nsid))?;
            namespace.independent = common.map(|data| self.parse(&data)).transpose()?;
        }
        if !matches!(csi, csi::NVM | csi::ZONED_NAMESPACE) {
            return Ok(namespace);
        }
        let identify = self.identify_namespace(nsid)?;
        if Ctratt::from_bits_retain(self.identify.ctratt.get()).contains(Ctratt::EXTENDED_LBA_FORMATS) {
            let extended = self.optional(|this| {
                this.identify_command_set(cns::IO_COMMAND_SET_NAMESPACE, nsid, csi::NVM, 0)
            })?;
            namespace.extended = extended.map(|data| self.parse(&data)).transpose()?;
        }
        namespace.format = BlockFormat::of(&identify, namespace.extended.as_deref());
        namespace.identify = Some(identify);
        if csi == csi::ZONED_NAMESPACE {
            let data = self.identify_command_set(cns::IO_COMMAND_SET_NAMESPACE, nsid, csi, 0)?;
            namespace.zoned = Some(self.parse(&data)?);
        }
        Ok(namespace)
    }

    /// The I/O command set of a namespace, as its identification descriptors say (CNS 03h).
    ///
    /// # Errors
    /// As [`Controller::admin`]; [`ControllerError::Unsupported`] when they do not say it though they must.
    pub fn command_set_of(&mut self, nsid: u32) -> Result<u8, ControllerError> {
        let descriptors = self.descriptors(nsid)?;
        self.described_command_set(nsid, &descriptors)
    }

    /// The identification descriptors of a namespace (CNS 03h); none where the controller need not have them.
    fn descriptors(&mut self, nsid: u32) -> Result<Vec<u8>, ControllerError> {
        if self.has_several_command_sets() {
            return self.identify_data(cns::NAMESPACE_DESCRIPTORS, nsid);
        }
        if self.version() < Version::V1_3 {
            return Ok(Vec::new());
        }
        match self.identify_data(cns::NAMESPACE_DESCRIPTORS, nsid) {
            // Mandatory from 1.3 on, and yet there are controllers of it that fail it, in one way or another. Only a
            // status that will be another next time does not say that the namespace has no such identifier.
            Err(ControllerError::Status { status, .. }) if !is_passing(status) => Ok(Vec::new()),
            list => list,
        }
    }

    fn described_command_set(&self, nsid: u32, descriptors: &[u8]) -> Result<u8, ControllerError> {
        if !self.has_several_command_sets() {
            return Ok(csi::NVM);
        }
        let found = described(descriptors, NamespaceIdDescriptor::CSI).and_then(|csi| csi.first().copied());
        found.ok_or_else(|| {
            self.unsupported(&format!("it does not say which command set namespace {nsid} belongs to"))
        })
    }

    /// The active namespaces of one I/O command set, ascending (CNS 07h).
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn active_namespaces_of(&mut self, csi: u8) -> Result<Vec<u32>, ControllerError> {
        if !self.has_several_command_sets() {
            return if csi == csi::NVM { self.active_namespaces() } else { Ok(Vec::new()) };
        }
        self.namespace_list(|this, after| {
            this.identify_command_set(cns::IO_COMMAND_SET_ACTIVE_LIST, after, csi, 0)
        })
    }

    /// What Identify Namespace would say if the namespace had another format (CNS 09h for the NVM Command Set, CNS 0Ah
    /// for others): `format` is an index of its LBA formats.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn identify_user_data_format(&mut self, csi: u8, format: u16) -> Result<Vec<u8>, ControllerError> {
        let cns = match csi {
            csi::NVM => cns::NAMESPACE_USER_DATA_FORMAT,
            _ => cns::IO_COMMAND_SET_NAMESPACE_USER_DATA_FORMAT,
        };
        self.identify_command_set(cns, 0, csi, format)
    }

    /// Limits of commands of the NVM Command Set that move no data (CNS 06h, CSI 00h); `None` when the controller says
    /// nothing of them.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn nvm_limits(&mut self) -> Result<Option<Box<NvmController>>, ControllerError> {
        let data =
            self.optional(|this| this.identify_command_set(cns::IO_COMMAND_SET_CONTROLLER, 0, csi::NVM, 0))?;
        data.map(|data| self.parse(&data)).transpose()
    }

    /// The most bytes that one Zone Append may write: what ZASL says, but no more than any command may transfer.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn max_zone_append(&mut self) -> Result<u32, ControllerError> {
        let data = self.identify_command_set(cns::IO_COMMAND_SET_CONTROLLER, 0, csi::ZONED_NAMESPACE, 0)?;
        let zoned: Box<IdentifyZonedController> = self.parse(&data)?;
        let limit = match zoned.zasl {
            0 => u64::MAX,
            shift => {
                let pages = 1_u64.checked_shl(shift.into()).unwrap_or(u64::MAX);
                pages.saturating_mul(PAGE_SIZE as u64)
            }
        };
        // Not more than a u32 is.
        Ok(limit.min(u64::from(self.max_transfer)) as u32)
    }

    /// 4096 bytes of Identify data that belong to an I/O command set. `specific` is CNS Specific Identifier (CDW11 bits
    /// 15:0).
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn identify_command_set(
        &mut self,
        cns: u8,
        nsid: u32,
        csi: u8,
        specific: u16,
    ) -> Result<Vec<u8>, ControllerError> {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
        entry.nsid.set(nsid);
        entry.cdw10.set(u32::from(cns));
        entry.cdw11.set(u32::from(csi) << 24 | u32::from(specific));
        Ok(self.admin(entry, AdminData::In(IDENTIFY_LENGTH))?.1)
    }

    /// Whether the volatile write cache is on (feature 06h); `None` when the controller has none. Data in it is safe after
    /// a Flush, after a write with FUA, and after [`Controller::shutdown`].
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn volatile_write_cache(&mut self) -> Result<Option<bool>, ControllerError> {
        if !Vwc::from_bits_retain(self.identify.vwc).contains(Vwc::PRESENT) {
            return Ok(None);
        }
        let value = self.feature(opcode::admin::GET_FEATURES, feature::fid::VOLATILE_WRITE_CACHE, 0)?;
        Ok(Some(value & WCE != 0))
    }

    /// Switches the volatile write cache on or off, until the next reset. What is in it is written when it goes off.
    ///
    /// # Errors
    /// As [`Controller::admin`]; a controller without a cache refuses.
    pub fn set_volatile_write_cache(&mut self, on: bool) -> Result<(), ControllerError> {
        let value = if on { WCE } else { 0 };
        self.feature(opcode::admin::SET_FEATURES, feature::fid::VOLATILE_WRITE_CACHE, value).map(drop)
    }

    /// Enables the widest combination of I/O command sets that the controller supports (CNS 1Ch, feature 19h).
    pub(super) fn settle_command_sets(&mut self) -> Result<(), ControllerError> {
        self.command_sets = CommandSets::NVM;
        if !self.has_several_command_sets() {
            return Ok(());
        }
        // NVMe Base 2.0, 5.17: FFFFh in CNTID is the controller that has the command.
        let mut entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
        entry.cdw10.set(0xffff << 16 | u32::from(cns::IO_COMMAND_SET_COMBINATIONS));
        let Some(data) = self.optional(|this| Ok(this.admin(entry, AdminData::In(IDENTIFY_LENGTH))?.1))?
        else {
            return Ok(());
        };
        let supported: Box<IoCommandSets> = self.parse(&data)?;
        let Some((index, sets)) = supported.widest() else { return Ok(()) };
        self.command_sets = sets;
        if supported.iter().count() == 1 {
            return Ok(());
        }
        let profile = feature::fid::IO_COMMAND_SET_PROFILE;
        let selected =
            self.optional(|this| this.feature(opcode::admin::SET_FEATURES, profile, u32::from(index)))?;
        if selected.is_none() {
            // As when namespaces of other command sets are attached: they go on as they were.
            let current = self.feature(opcode::admin::GET_FEATURES, profile, 0)? & 0x1ff;
            self.command_sets = CommandSets::from_bits_retain(supported.combinations[current as usize].get());
            tracing::info!(
                function = self.function_name(),
                command_sets = ?self.command_sets,
                "the controller keeps to its combination of I/O command sets"
            );
        }
        Ok(())
    }

    /// Whether the controller was enabled with all the command sets it has (CC.CSS is 110b), and knows the commands that
    /// came with them.
    fn has_several_command_sets(&self) -> bool {
        self.capabilities.css() & ControllerCapabilities::CSS_IO_COMMAND_SETS != 0
    }

    /// Gets or sets a feature that is one dword and no namespace's.
    fn feature(&mut self, opcode: u8, fid: u8, value: u32) -> Result<u32, ControllerError> {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.cdw10.set(u32::from(fid));
        entry.cdw11.set(value);
        Ok(self.admin(entry, AdminData::None)?.0.dw0.get())
    }

    /// What a command gives that a controller may refuse: `None` when it does.
    fn optional<T>(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<T, ControllerError>,
    ) -> Result<Option<T>, ControllerError> {
        match run(self) {
            Ok(value) => Ok(Some(value)),
            Err(ControllerError::Status { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether the same command may have another status when it is given once more.
fn is_passing(status: Status) -> bool {
    let passing = [
        Status::ABORT_REQUESTED,
        Status::ABORTED_SQ_DELETION,
        Status::COMMAND_INTERRUPTED,
        Status::NAMESPACE_NOT_READY,
    ];
    !status.dnr() && passing.iter().any(|one| status.is(*one))
}

/// The identifier of this type in a list of identification descriptors.
fn described(descriptors: &[u8], nidt: u8) -> Option<&[u8]> {
    NamespaceIdDescriptor::parse(descriptors).find(|one| one.nidt == nidt).map(|one| one.nid)
}

/// Volatile Write Cache Enable, in dword 11 and dword 0 of feature 06h.
const WCE: u32 = 1 << 0;
