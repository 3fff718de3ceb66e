//! Data that the Identify command returns (NVMe Base 2.0, 5.17).

mod command_sets;
mod controller;
mod descriptors;
mod flags;
mod independent;
mod namespace;
mod nvm;

pub use command_sets::{CommandSets, IoCommandSets};
pub use controller::{IdentifyController, PowerStateDescriptor};
pub use descriptors::{
    DescriptorListFull, NamespaceIdDescriptor, NamespaceIdDescriptorBuilder, NamespaceIdDescriptors,
};
pub use flags::{Anacap, Cmic, Ctratt, Fuses, Lpa, Nmic, Nsfeat, Oacs, Oaes, Ofcs, Oncs, Sgls, Vwc};
pub use independent::CommandSetIndependentNamespace;
pub use namespace::{IdentifyNamespace, LbaFormat};
pub use nvm::{ExtendedLbaFormat, NvmController, NvmNamespace};

/// Length in bytes of everything that Identify returns.
pub const IDENTIFY_LENGTH: usize = 4096;

/// Controller or Namespace Structure: what an Identify command asks for (CDW10 bits 7:0).
pub mod cns {
    /// Identify Namespace of the command's namespace.
    pub const NAMESPACE: u8 = 0x00;
    /// Identify Controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Up to 1024 active NSIDs above the command's.
    pub const ACTIVE_NAMESPACE_LIST: u8 = 0x02;
    /// Namespace identification descriptors of the command's namespace.
    pub const NAMESPACE_DESCRIPTORS: u8 = 0x03;
    /// NVM sets.
    pub const NVM_SET_LIST: u8 = 0x04;
    /// Identify Namespace of one I/O command set.
    pub const IO_COMMAND_SET_NAMESPACE: u8 = 0x05;
    /// Identify Controller of one I/O command set.
    pub const IO_COMMAND_SET_CONTROLLER: u8 = 0x06;
    /// Active NSIDs of one I/O command set.
    pub const IO_COMMAND_SET_ACTIVE_LIST: u8 = 0x07;
    /// Identify Namespace, independent of the I/O command set.
    pub const COMMAND_SET_INDEPENDENT_NAMESPACE: u8 = 0x08;
    /// Identify Namespace for a user data format index.
    pub const NAMESPACE_USER_DATA_FORMAT: u8 = 0x09;
    /// Identify Namespace for a user data format index, of one I/O command set.
    pub const IO_COMMAND_SET_NAMESPACE_USER_DATA_FORMAT: u8 = 0x0a;
    /// Allocated NSIDs above the command's.
    pub const ALLOCATED_NAMESPACE_LIST: u8 = 0x10;
    /// Identify Namespace of an allocated namespace.
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    /// Controllers that the command's namespace is attached to.
    pub const ATTACHED_CONTROLLER_LIST: u8 = 0x12;
    /// Controllers of the NVM subsystem.
    pub const CONTROLLER_LIST: u8 = 0x13;
    /// Primary controller capabilities.
    pub const PRIMARY_CONTROLLER_CAPABILITIES: u8 = 0x14;
    /// Secondary controllers of the primary controller.
    pub const SECONDARY_CONTROLLER_LIST: u8 = 0x15;
    /// Namespace granularity.
    pub const NAMESPACE_GRANULARITY: u8 = 0x16;
    /// UUIDs that log pages and features may be selected with.
    pub const UUID_LIST: u8 = 0x17;
    /// Domains.
    pub const DOMAIN_LIST: u8 = 0x18;
    /// Endurance groups.
    pub const ENDURANCE_GROUP_LIST: u8 = 0x19;
    /// Allocated NSIDs of one I/O command set.
    pub const IO_COMMAND_SET_ALLOCATED_LIST: u8 = 0x1a;
    /// Identify Namespace of an allocated namespace, of one I/O command set.
    pub const IO_COMMAND_SET_ALLOCATED_NAMESPACE: u8 = 0x1b;
    /// Combinations of I/O command sets.
    pub const IO_COMMAND_SET_COMBINATIONS: u8 = 0x1c;
    /// Namespaces that exported namespaces can be made of.
    pub const UNDERLYING_NAMESPACE_LIST: u8 = 0x1d;
    /// Ports of the NVM subsystem.
    pub const PORTS_LIST: u8 = 0x1e;
    /// Identify Namespace of an allocated namespace, independent of the I/O command set.
    pub const COMMAND_SET_INDEPENDENT_ALLOCATED_NAMESPACE: u8 = 0x1f;
    /// Formats of controller state that can be migrated.
    pub const SUPPORTED_CONTROLLER_STATE_FORMATS: u8 = 0x20;
}

/// I/O Command Set Identifiers (NVMe Base 2.0, 3.1.3.5 and 5.17).
pub mod csi {
    /// NVM Command Set.
    pub const NVM: u8 = 0x00;
    /// Key Value Command Set.
    pub const KEY_VALUE: u8 = 0x01;
    /// Zoned Namespace Command Set.
    pub const ZONED_NAMESPACE: u8 = 0x02;
}

/// Implements `Default` as all zeroes for structures whose arrays are too long for the derive.
macro_rules! zeroed_default {
    ($name:ty) => {
        impl Default for $name {
            /// All zeroes.
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    };
}
pub(crate) use zeroed_default;
