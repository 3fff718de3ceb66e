//! Tests of what needs no device: a file stands for it.

use std::fs::File;

use rustix::fs::MemfdFlags;

use super::capability::Area;
use super::*;

const BAR_SIZE: u64 = 0x4000;

fn address() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

fn device() -> Arc<File> {
    let file = File::from(rustix::fs::memfd_create("device", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(BAR_SIZE).unwrap();
    Arc::new(file)
}

fn region_of(size: u64, mappable: &[(u64, u64)]) -> Region {
    let mappable = mappable.iter().map(|&(offset, len)| Area { offset, len }).collect();
    Region { size, file_offset: 0, accessible: true, mappable }
}

#[test]
fn the_command_register_keeps_the_bits_that_are_not_ours() {
    let device = device();
    device.write_all_at(&0x0401u16.to_le_bytes(), 0x100 + PCI_COMMAND).unwrap();
    device.write_all_at(&[0xaa, 0xbb], 0x100 + PCI_COMMAND + 2).unwrap();
    let config = Config { device: Arc::clone(&device), file_offset: 0x100 };
    let command = || {
        let mut bytes = [0; 4];
        device.read_exact_at(&mut bytes, 0x100 + PCI_COMMAND).unwrap();
        u32::from_le_bytes(bytes)
    };
    config.set_command(MEMORY_SPACE, 0).unwrap();
    assert_eq!(command(), 0xbbaa_0403);
    config.set_command(BUS_MASTER, 0).unwrap();
    assert_eq!(command(), 0xbbaa_0407);
    config.set_command(0, BUS_MASTER).unwrap();
    assert_eq!(command(), 0xbbaa_0403);
}

#[test]
fn the_command_register_of_a_device_that_does_not_answer_is_left_alone() {
    let device = device();
    let config = Config { device: Arc::clone(&device), file_offset: 0 };
    // The kernel makes up some of the bits.
    for absent in [0xffff_u16, 0xfffd] {
        device.write_all_at(&absent.to_le_bytes(), PCI_COMMAND).unwrap();
        let error = config.set_command(MEMORY_SPACE, BUS_MASTER).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert_eq!(config.command().unwrap(), absent);
    }
}

#[test]
fn a_configuration_space_beyond_the_end_of_all_files_is_an_error() {
    let config = Config { device: device(), file_offset: u64::MAX - 1 };
    assert!(config.set_command(BUS_MASTER, 0).is_err());
}

#[test]
fn a_bar_too_small_for_a_controller_is_refused() {
    let error = map_registers(&device(), address(), &region_of(0x1000, &[(0, 0x1000)])).unwrap_err();
    assert!(matches!(error, VfioError::Registers { .. }), "{error}");
}

#[test]
fn doorbells_that_cannot_be_mapped_are_refused() {
    let error = map_registers(&device(), address(), &region_of(BAR_SIZE, &[(0, 0x1000)])).unwrap_err();
    assert!(error.to_string().contains("doorbells"), "{error}");
    assert!(map_registers(&device(), address(), &region_of(BAR_SIZE, &[(0x1000, 0x1000)])).is_ok());
}

#[test]
fn a_file_that_is_no_device_has_no_regions() {
    let error = region(&device(), address(), VFIO_PCI_BAR0_REGION_INDEX).unwrap_err();
    assert!(matches!(error, VfioError::Request { .. }), "{error}");
}
