use std::sync::Arc;

use super::*;
use crate::testing::Memory;

const GIB: u64 = 1 << 30;

fn wide() -> Arc<Memory> {
    Memory::new(vec![0..=(1 << 48) - 1])
}

fn attach(domain: &DmaDomain, memory: &Arc<Memory>) -> Result<(), DmaError> {
    domain.attach(Arc::clone(memory) as Arc<dyn Iommu>)
}

#[test]
fn regions_are_zeroed_pages_and_know_their_addresses() {
    let domain = DmaDomain::new();
    let region = domain.allocate(5000, Direction::DeviceReads).unwrap();
    assert_eq!((region.len() % rustix::param::page_size(), region.iova() % 4096), (0, 0));
    assert!(region.len() >= 5000 && !region.is_empty());
    assert_eq!(region.direction(), Direction::DeviceReads);
    assert!(DmaBuffer::whole(region).iter().all(|&byte| byte == 0));
}

#[test]
fn lengths_that_cannot_be_are_errors() {
    let domain = DmaDomain::new();
    for len in [0, usize::MAX, isize::MAX as usize] {
        assert!(
            matches!(domain.allocate(len, Direction::DeviceReads), Err(DmaError::BadLength { .. })),
            "{len}"
        );
    }
    assert!(ReceivePool::new(&domain, usize::MAX / 2, 4).is_err());
    assert!(BufferPool::new(&domain, Direction::DeviceReads, usize::MAX, 4096).is_err());
}

#[test]
fn every_iommu_maps_every_region_at_the_same_address() {
    let (domain, first, second) = (DmaDomain::new(), wide(), wide());
    let before = domain.allocate(8192, Direction::DeviceReads).unwrap();
    attach(&domain, &first).unwrap();
    let between = domain.allocate(4096, Direction::DeviceWrites).unwrap();
    attach(&domain, &second).unwrap();
    let after = domain.allocate(4096, Direction::Bidirectional).unwrap();
    let mut expected: Vec<_> = [&before, &between, &after].map(|r| (r.iova(), r.len())).into();
    expected.sort_unstable();
    assert_eq!(first.mappings(), expected);
    assert_eq!(second.mappings(), expected);
    drop(between);
    assert_eq!((first.mappings().len(), second.mappings().len()), (2, 2));
    domain.detach(&(Arc::clone(&first) as Arc<dyn Iommu>));
    assert_eq!((first.mappings().len(), second.mappings().len()), (0, 2));
    drop((before, after));
    assert_eq!(second.mappings(), []);
}

#[test]
fn an_iommu_that_refuses_a_mapping_is_not_attached_and_keeps_none() {
    let (domain, memory) = (DmaDomain::new(), wide());
    let regions: Vec<_> = (0..3).map(|_| domain.allocate(4096, Direction::DeviceReads).unwrap()).collect();
    memory.allow_maps(2);
    assert!(matches!(attach(&domain, &memory), Err(DmaError::Map { .. })));
    assert_eq!(memory.mappings(), []);
    memory.allow_maps(usize::MAX);
    drop(regions);
    let _region = domain.allocate(4096, Direction::DeviceReads).unwrap();
    assert_eq!(memory.mappings(), [], "it is not attached");
}

#[test]
fn a_region_that_one_iommu_refuses_is_mapped_in_none() {
    let (domain, first, second) = (DmaDomain::new(), wide(), wide());
    attach(&domain, &first).unwrap();
    attach(&domain, &second).unwrap();
    second.allow_maps(0);
    assert!(domain.allocate(4096, Direction::DeviceReads).is_err());
    assert_eq!(first.mappings(), []);
    second.allow_maps(1);
    assert!(domain.allocate(4096, Direction::DeviceReads).is_ok());
}

#[test]
fn an_iommu_that_cannot_reach_what_is_in_use_is_refused() {
    let domain = DmaDomain::new();
    let region = domain.allocate(4096, Direction::DeviceReads).unwrap();
    let below = Memory::new(vec![0x1000..=4 * GIB - 1]);
    match attach(&domain, &below) {
        Err(DmaError::OutsideRanges { iova, last }) => {
            assert_eq!((iova, last), (region.iova(), region.iova() + region.len() as u64 - 1));
        }
        other => panic!("{other:?}"),
    }
    drop(region);
    attach(&domain, &below).unwrap();
    assert!(domain.allocate(4096, Direction::DeviceReads).unwrap().iova() < 4 * GIB);
}

#[test]
fn addresses_come_from_what_all_iommus_share() {
    let domain = DmaDomain::new();
    attach(&domain, &Memory::new(vec![0x1000..=0xffff, 5 * GIB..=5 * GIB + 0x3fff])).unwrap();
    attach(&domain, &Memory::new(vec![5 * GIB + 0x2000..=6 * GIB, 0x4000..=0x6fff])).unwrap();
    // One page of what is shared is the poison page.
    let iovas: Vec<_> = std::iter::from_fn(|| domain.allocate(4096, Direction::DeviceReads).ok()).collect();
    assert_eq!(iovas.len(), 4);
    assert!(matches!(domain.allocate(4096, Direction::DeviceReads), Err(DmaError::NoIova { .. })));
    let shared =
        |iova| (0x4000..0x7000).contains(&iova) || (5 * GIB + 0x2000..5 * GIB + 0x4000).contains(&iova);
    assert!(iovas.iter().all(|region| shared(region.iova())));
    assert!(shared(domain.poison_iova()));
}

#[test]
fn iommus_with_nothing_in_common_cannot_be_attached_together() {
    let domain = DmaDomain::new();
    attach(&domain, &Memory::new(vec![0x1000..=0xffff])).unwrap();
    let other = Memory::new(vec![0x10000..=0x1ffff]);
    assert!(matches!(attach(&domain, &other), Err(DmaError::NoIova { .. })));
    assert!(domain.allocate(4096, Direction::DeviceReads).is_ok(), "the first goes on");
}

#[test]
fn the_poison_page_is_never_mapped() {
    let (domain, memory) = (DmaDomain::new(), Memory::new(vec![4 * GIB..=4 * GIB + 0xffff]));
    attach(&domain, &memory).unwrap();
    let poison = domain.poison_iova();
    let regions: Vec<_> =
        std::iter::from_fn(|| domain.allocate(4096, Direction::Bidirectional).ok()).collect();
    assert_eq!(regions.len(), 15);
    assert!(memory.mappings().iter().all(|&(iova, len)| poison < iova || iova + len as u64 <= poison));
}

#[test]
fn a_mapping_that_cannot_be_taken_away_keeps_its_address_and_its_memory() {
    let (domain, memory) = (DmaDomain::new(), wide());
    attach(&domain, &memory).unwrap();
    let region = domain.allocate(4096, Direction::DeviceWrites).unwrap();
    let iova = region.iova();
    memory.refuse_unmap(true);
    drop(region);
    memory.refuse_unmap(false);
    let others: Vec<_> = (0..3).map(|_| domain.allocate(4096, Direction::DeviceWrites).unwrap()).collect();
    assert!(others.iter().all(|other| other.iova() != iova));
    // The device can still write without harm.
    memory.write(iova, &[0xee; 4096]);
}

#[test]
fn ranges_that_shrink_are_kept_to_after_a_refresh() {
    let (domain, memory) = (DmaDomain::new(), wide());
    attach(&domain, &memory).unwrap();
    let region = domain.allocate(4096, Direction::DeviceReads).unwrap();
    memory.set_ranges(vec![0x1000..=0xf_ffff]);
    assert!(matches!(domain.refresh(), Err(DmaError::OutsideRanges { .. })));
    drop(region);
    domain.refresh().unwrap();
    assert!(domain.allocate(4096, Direction::DeviceReads).unwrap().iova() < 0x10_0000);
    assert!(domain.poison_iova() < 0x10_0000);
}

#[test]
fn an_attached_iommu_is_found_by_its_type() {
    struct Other;
    impl Iommu for Other {
        fn ranges(&self) -> Vec<std::ops::RangeInclusive<u64>> {
            vec![0..=u64::MAX]
        }
        fn map(&self, _: u64, _: &RegionMemory, _: Direction) -> Result<(), DmaError> {
            Ok(())
        }
        fn unmap(&self, _: u64, _: u64) -> Result<(), DmaError> {
            Ok(())
        }
    }
    let (domain, memory) = Memory::in_domain();
    assert!(domain.attached::<Other>().is_none());
    domain.attach(Arc::new(Other)).unwrap();
    assert!(domain.attached::<Other>().is_some());
    assert!(domain.attached::<Memory>().is_some_and(|found| Arc::ptr_eq(&found, &memory)));
}

#[test]
fn large_regions_begin_where_large_pages_do() {
    let domain = DmaDomain::new();
    let _small = domain.allocate(4096, Direction::DeviceReads).unwrap();
    let large = domain.allocate(3 << 20, Direction::DeviceReads).unwrap();
    assert_eq!(large.iova() % (2 << 20), 0);
    assert!(large.len() == 4 << 20 || !large.is_huge());
}
