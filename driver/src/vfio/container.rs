//! Groups and the container that they share: one IOMMU domain of the kernel for all drives of a process.
#![allow(unsafe_code)] // The promise about memory that is mapped for devices stands here.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_GROUP_FLAGS_VIABLE,
    VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU,
};

use super::capability::IommuInfo;
use super::error::VfioError;
use super::ioctl;
use super::sysfs::Places;
use crate::address::PciAddress;
use crate::dma::{Direction, DmaDomain, DmaError, Iommu, RegionMemory};

/// Mappings that a type 1 container takes when its kernel does not say (`dma_entry_limit` of
/// vfio_iommu_type1).
const DEFAULT_MAPPINGS: u32 = 65_535;

/// Drives join and leave containers one after the other: whether a container has its first drive, or loses
/// its last, must not change while it is acted upon.
static GATE: Mutex<()> = Mutex::new(());

/// A VFIO container with a type 1 IOMMU.
#[derive(Debug)]
pub(super) struct Container {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    info: IommuInfo,
    /// The groups of open drives. A group is opened once, however many of its functions are.
    groups: HashMap<u32, Weak<Group>>,
    members: usize,
}

/// An IOMMU group that this process holds.
#[derive(Debug)]
pub(super) struct Group {
    file: File,
}

/// A drive's place in a container. When the last one leaves, the container leaves the domain.
#[derive(Debug)]
pub(super) struct Membership {
    /// It has left the container's domain to the others.
    left: bool,
    // The group before the container: the kernel dissolves a container's IOMMU when its last group goes.
    group: Arc<Group>,
    container: Arc<Container>,
    domain: DmaDomain,
}

impl Membership {
    /// Puts the group of a function into the domain's container; makes the container when this is the first
    /// drive.
    pub(super) fn join(
        places: &Places,
        address: PciAddress,
        number: u32,
        domain: &DmaDomain,
    ) -> Result<Self, VfioError> {
        let _gate = GATE.lock().unwrap_or_else(PoisonError::into_inner);
        match domain.attached::<Container>() {
            Some(container) => Self::join_present(places, address, number, domain, container),
            None => Self::join_new(places, address, number, domain),
        }
    }

    fn join_new(
        places: &Places,
        address: PciAddress,
        number: u32,
        domain: &DmaDomain,
    ) -> Result<Self, VfioError> {
        let request = |action| move |source| VfioError::Request { address, action, source };
        let file = open(places, &places.container())?;
        let version = ioctl::api_version(file.as_fd()).map_err(request("ask for the version of VFIO"))?;
        if version != VFIO_API_VERSION as i32 {
            return Err(VfioError::Unsupported { what: format!("has version {version}") });
        }
        let kind = iommu_type(&file).map_err(request("ask for the kinds of IOMMU"))?;
        let group = Group::open(places, address, number)?;
        ioctl::set_container(group.file.as_fd(), file.as_fd())
            .map_err(request("put its IOMMU group into a container"))?;
        ioctl::set_iommu(file.as_fd(), kind).map_err(request("switch the IOMMU of its group on"))?;

        let info = iommu_info(&file, address)?;
        let group = Arc::new(group);
        let groups = HashMap::from([(number, Arc::downgrade(&group))]);
        let container = Arc::new(Container { file, state: Mutex::new(State { info, groups, members: 1 }) });
        tracing::debug!(%address, group = number, info = ?container.state().info, "new VFIO container");
        domain
            .attach(Arc::<Container>::clone(&container))
            .map_err(|source| VfioError::Dma { address, source })?;
        Ok(Self { left: false, group, container, domain: domain.clone() })
    }

    fn join_present(
        places: &Places,
        address: PciAddress,
        number: u32,
        domain: &DmaDomain,
        container: Arc<Container>,
    ) -> Result<Self, VfioError> {
        let known = container.state().groups.get(&number).and_then(Weak::upgrade);
        let group = match known {
            Some(group) => group,
            None => {
                let group = Group::open(places, address, number)?;
                // The kernel maps all that is mapped for the new group too, or refuses.
                ioctl::set_container(group.file.as_fd(), container.file.as_fd())
                    .map_err(|source| VfioError::Join { address, group: number, source })?;
                Arc::new(group)
            }
        };
        // The new group may have reserved addresses that the others have not.
        let before = container.replace_info(iommu_info(&container.file, address)?);
        if let Err(source) = domain.refresh() {
            container.replace_info(before);
            return Err(VfioError::Dma { address, source });
        }
        let mut state = container.state();
        state.groups.insert(number, Arc::downgrade(&group));
        state.members += 1;
        drop(state);
        Ok(Self { left: false, group, container, domain: domain.clone() })
    }

    /// Opens a function of the group.
    pub(super) fn device(&self, address: PciAddress) -> Result<File, VfioError> {
        let request = |source| VfioError::Request { address, action: "open it through vfio-pci", source };
        let name = CString::new(address.to_string()).map_err(|error| request(error.into()))?;
        let device: OwnedFd = ioctl::device(self.group.file.as_fd(), &name).map_err(request)?;
        Ok(device.into())
    }
}

impl Membership {
    /// Leaves the domain; with the last drive its memory is taken out of the container. To be called before the device is
    /// closed: once a device that is being removed is closed, the kernel takes its group out of the container, and with the
    /// last group the container has no IOMMU any more to unmap anything from.
    ///
    /// Whether the drive reaches nothing of the domain any more: the last one does not.
    pub(super) fn leave(&mut self) -> bool {
        if std::mem::replace(&mut self.left, true) {
            return false;
        }
        let _gate = GATE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.container.state();
        state.members -= 1;
        let last = state.members == 0;
        drop(state);
        // While the group is still held: without one the container has no IOMMU to unmap from.
        let container: Arc<dyn Iommu> = Arc::<Container>::clone(&self.container);
        last && self.domain.detach(&container)
    }

    /// The group, to be cut off once the device is closed.
    pub(super) fn group(&self) -> Arc<Group> {
        Arc::clone(&self.group)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Group {
    /// Takes the group out of its container: its devices, none of which may be open, reach no memory any more.
    pub(super) fn cut_off(&self) -> io::Result<()> {
        match ioctl::unset_container(self.file.as_fd()) {
            // It is in none: the kernel took it out when its device was removed.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            result => result,
        }
    }

    fn open(places: &Places, address: PciAddress, number: u32) -> Result<Self, VfioError> {
        let file = open(places, &places.group(number))?;
        let flags = ioctl::group_flags(file.as_fd()).map_err(|source| VfioError::Request {
            address,
            action: "ask for the state of its IOMMU group",
            source,
        })?;
        if flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
            let others = places.in_the_way(number)?;
            return Err(VfioError::GroupNotViable { address, group: number, others });
        }
        Ok(Self { file })
    }
}

impl Container {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace_info(&self, info: IommuInfo) -> IommuInfo {
        std::mem::replace(&mut self.state().info, info)
    }
}

impl Iommu for Container {
    fn ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.state().info.ranges.clone()
    }

    fn granule(&self) -> u64 {
        // The smallest page that the IOMMU knows; a smaller one than the system's is of no use to either.
        1u64.checked_shl(self.state().info.page_sizes.trailing_zeros()).unwrap_or(4096)
    }

    fn map(&self, iova: u64, memory: &RegionMemory, direction: Direction) -> Result<(), DmaError> {
        let len = memory.len() as u64;
        // SAFETY: the domain keeps `memory` until `unmap` succeeded, and for ever when it did not. What is in
        // it is only reached through buffers that are not in hand while a device may write them.
        unsafe { ioctl::map_dma(self.file.as_fd(), map_flags(direction), memory.as_ptr().cast(), iova, len) }
            .map_err(|source| match source.raw_os_error() {
                Some(libc::ENOSPC) => DmaError::TooManyMappings {
                    limit: self.state().info.available_mappings.unwrap_or(DEFAULT_MAPPINGS),
                },
                Some(libc::ENOMEM) => match lock_limit() {
                    Some(limit) => DmaError::LockedMemory { limit, needed: len },
                    None => DmaError::Map { iova, len, source },
                },
                _ => DmaError::Map { iova, len, source },
            })
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<(), DmaError> {
        let failed = |source| DmaError::Unmap { iova, len, source };
        let unmapped = ioctl::unmap_dma(self.file.as_fd(), iova, len).map_err(failed)?;
        if unmapped == len {
            Ok(())
        } else {
            Err(failed(io::Error::other(format!("the kernel unmapped {unmapped} bytes"))))
        }
    }
}

fn map_flags(direction: Direction) -> u32 {
    let reads = if direction.device_reads() { VFIO_DMA_MAP_FLAG_READ } else { 0 };
    let writes = if direction.device_writes() { VFIO_DMA_MAP_FLAG_WRITE } else { 0 };
    reads | writes
}

/// The limit on locked memory, in bytes, if it binds this process.
fn lock_limit() -> Option<u64> {
    let exempt = rustix::thread::capabilities(None)
        .is_ok_and(|capabilities| capabilities.effective.contains(CapabilitySet::IPC_LOCK));
    if exempt { None } else { getrlimit(Resource::Memlock).current }
}

/// The better of the two type 1 IOMMUs: version 2 refuses to unmap a part of a mapping, as it should.
fn iommu_type(container: &File) -> io::Result<u32> {
    for kind in [VFIO_TYPE1v2_IOMMU, VFIO_TYPE1_IOMMU] {
        if ioctl::has_extension(container.as_fd(), kind)? {
            return Ok(kind);
        }
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "no type 1 IOMMU (`modprobe vfio_iommu_type1`)"))
}

fn iommu_info(container: &File, address: PciAddress) -> Result<IommuInfo, VfioError> {
    let answer = ioctl::iommu_info(container.as_fd()).map_err(|source| VfioError::Request {
        address,
        action: "ask for the addresses of its IOMMU",
        source,
    })?;
    IommuInfo::parse(&answer).map_err(|source| VfioError::Answer { address, what: "its IOMMU", source })
}

fn open(places: &Places, path: &Path) -> Result<File, VfioError> {
    let path_buf = || path.to_owned();
    OpenOptions::new().read(true).write(true).open(path).map_err(|source| match source.raw_os_error() {
        // ENODEV: the file is there, but nobody stands behind it.
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => VfioError::NoVfio { path: path_buf() },
        Some(libc::EACCES | libc::EPERM) => VfioError::Permission { path: path_buf() },
        Some(libc::EBUSY) => VfioError::Busy { path: path_buf(), holders: places.holders(path) },
        _ => VfioError::File { action: "open", path: path_buf(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(root: &Path) -> Places {
        Places { sys: root.join("sys"), proc: root.join("proc"), dev: root.join("dev") }
    }

    #[test]
    fn mappings_permit_what_their_direction_says_and_no_more() {
        assert_eq!(map_flags(Direction::DeviceReads), VFIO_DMA_MAP_FLAG_READ);
        assert_eq!(map_flags(Direction::DeviceWrites), VFIO_DMA_MAP_FLAG_WRITE);
        assert_eq!(map_flags(Direction::Bidirectional), VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
    }

    #[test]
    fn without_vfio_the_error_says_how_to_load_it() {
        let root = tempfile::tempdir().unwrap();
        let address = "0000:01:00.0".parse().unwrap();
        let error = Membership::join(&places(root.path()), address, 3, &DmaDomain::new()).unwrap_err();
        assert!(matches!(error, VfioError::NoVfio { .. }), "{error}");
        assert!(error.to_string().contains("modprobe vfio-pci"), "{error}");
    }

    #[test]
    fn a_container_that_is_something_else_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("dev/vfio")).unwrap();
        std::fs::write(root.path().join("dev/vfio/vfio"), "").unwrap();
        let address = "0000:01:00.0".parse().unwrap();
        let domain = DmaDomain::new();
        let error = Membership::join(&places(root.path()), address, 3, &domain).unwrap_err();
        assert!(matches!(error, VfioError::Request { .. }), "{error}");
        assert!(domain.attached::<Container>().is_none());
    }
}
