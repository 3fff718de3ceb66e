//! What a drive says of itself.

use gangway_driver::controller::{Controller, ControllerError, Namespace};
use gangway_spec::identify::{IdentifyController, IdentifyNamespace, NvmController, csi};
use gangway_spec::nvm::BlockFormat;
use gangway_spec::registers::{ControllerCapabilities, Version};

use crate::admission::{NamespaceIds, ZoneLimits, carried};

/// A namespace as the drive reports it.
#[derive(Clone, Debug)]
pub struct DriveNamespace {
    /// Its NSID on the drive.
    pub nsid: u32,
    /// The I/O command set that it belongs to.
    pub csi: u8,
    /// Identify Namespace.
    pub identify: Box<IdentifyNamespace>,
    /// Its UUID; zeroes where the drive gives none.
    pub uuid: [u8; 16],
    /// Its block format; `None` when NVMe/TCP cannot carry it, or when it is of neither the NVM nor the Zoned Namespace
    /// Command Set; or while it is not known who may use it.
    pub format: Option<BlockFormat>,
    /// Limits of its zones, if it has some.
    pub zones: ZoneLimits,
}

impl DriveNamespace {
    /// What tells it from another that has its NSID later.
    pub(crate) fn ids(&self) -> NamespaceIds {
        let IdentifyNamespace { nguid, eui64, .. } = *self.identify;
        NamespaceIds { nguid, eui64, uuid: self.uuid, derived: None }
    }

    /// Whether nothing is different that its hosts should know of. How much of it is in use, and how far a format has
    /// come, changes all the time, and is not told (NVMe Base 2.0, 5.2: Attached Namespace Attribute Changed).
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let lasting = |namespace: &Self| {
            let mut identify = namespace.identify.clone();
            identify.nuse = 0.into();
            identify.fpi = 0;
            identify
        };
        (self.nsid, self.csi, self.uuid) == (other.nsid, other.csi, other.uuid)
            && (self.format, self.zones) == (other.format, other.zones)
            && lasting(self) == lasting(other)
    }
}

/// What a drive said of itself when it was started.
#[derive(Clone, Debug)]
pub struct DriveInfo {
    /// Its address, such as `pci:0000:01:00.0`.
    pub name: String,
    /// Identify Controller, with those formats of Copy that can be used.
    pub identify: Box<IdentifyController>,
    /// CAP.
    pub capabilities: ControllerCapabilities,
    /// VS.
    pub version: Version,
    /// Active namespaces, by NSID.
    pub namespaces: Vec<DriveNamespace>,
    /// Bytes that one command can transfer at most.
    pub max_transfer: u32,
    /// Limits of commands of the NVM Command Set that move no data, where it says them (CNS 06h).
    pub nvm_limits: Option<Box<NvmController>>,
}

impl DriveInfo {
    pub(super) fn read(name: String, controller: &mut Controller) -> Result<Self, ControllerError> {
        let namespaces = read_namespaces(controller)?;
        // A command that came with command sets: some older drives do no good when they are asked what they do not know.
        let has_command_sets =
            controller.capabilities().css() & ControllerCapabilities::CSS_IO_COMMAND_SETS != 0;
        let nvm_limits = if has_command_sets { controller.nvm_limits()? } else { None };
        let mut identify = Box::new(controller.identify().clone());
        // What it did not enable, or nobody knows, is not to be promised.
        identify.ocfs.set(controller.copy_formats());
        Ok(Self {
            name,
            identify,
            capabilities: controller.capabilities(),
            version: controller.version(),
            namespaces,
            max_transfer: controller.max_transfer(),
            nvm_limits,
        })
    }

    /// Why `controller`, which was found in its place, cannot go on in its stead; `None` when it can.
    pub(super) fn difference(&self, controller: &Controller, reactors: usize) -> Option<String> {
        let (then, now) = (&self.identify, controller.identify());
        let names = |identify: &IdentifyController| {
            format!("{} with serial number {}", identify.model(), identify.serial())
        };
        if then.sn != now.sn || then.mn != now.mn {
            return Some(format!("it is another drive: {} instead of {}", names(now), names(then)));
        }
        if controller.max_transfer() < self.max_transfer {
            return Some(format!(
                "it transfers {} bytes at most, and hosts were told {}",
                controller.max_transfer(),
                self.max_transfer
            ));
        }
        let granted = controller.io_queue_limit();
        if usize::from(granted) < reactors {
            return Some(format!("it grants {granted} I/O queue pairs, and {reactors} are needed"));
        }
        None
    }
}

/// The namespaces that are active now.
pub(super) fn read_namespaces(controller: &mut Controller) -> Result<Vec<DriveNamespace>, ControllerError> {
    let namespaces = controller.namespaces()?;
    let zoned = namespaces.iter().any(|namespace| namespace.csi == csi::ZONED_NAMESPACE);
    let append = if zoned { controller.max_zone_append()? } else { 0 };
    let describe = |namespace: Namespace| {
        let known = matches!(namespace.csi, csi::NVM | csi::ZONED_NAMESPACE);
        let format = namespace.format.filter(|_| known).and_then(carried);
        // Of command sets without blocks there is no such data, and nothing that could be exported.
        let identify = namespace.identify.unwrap_or_default();
        let zones = namespace.zoned.map_or_else(ZoneLimits::default, |zoned| ZoneLimits {
            append,
            extension: u32::from(zoned.lbafe[identify.lba_format_index()].zdes) * 64,
        });
        let Namespace { nsid, csi, uuid, .. } = namespace;
        DriveNamespace { nsid, csi, identify, uuid: uuid.unwrap_or_default(), format, zones }
    };
    Ok(namespaces.into_iter().map(describe).collect())
}
