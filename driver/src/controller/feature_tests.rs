//! Features that a controller may have or not: what is asked of it, and what becomes of its answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::feature::HostBehaviorSupport;
use gangway_spec::identify::{
    CommandSets, Ctratt, ExtendedLbaFormat, IoCommandSets, LbaFormat, NamespaceIdDescriptor,
    NamespaceIdDescriptorBuilder, NvmNamespace, Oacs, Oncs, Sgls, Vwc, cns, csi,
};
use gangway_spec::nvm::BlockFormat;
use gangway_spec::registers::{ACQ, AQA, ASQ, CAP, CC, CSTS, ControllerConfiguration, VS};
use gangway_spec::zns::{IdentifyZonedController, IdentifyZonedNamespace, ZonedLbaFormatExtension};
use gangway_spec::{CompletionQueueEntry, IdentifyNamespace, Status, feature, opcode};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::*;
use crate::function::{FunctionError, Stepper};
use crate::mmio::{Doorbell, DoorbellPage};
use crate::queue::DataPointers;
use crate::testing::{Device, Memory};

/// A controller made of answers. It works when it is stepped, and remembers what it was asked.
#[derive(Clone)]
struct Drive {
    domain: DmaDomain,
    memory: Arc<Memory>,
    page: Arc<DoorbellPage>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    cap: ControllerCapabilities,
    identify: IdentifyController,
    /// Identify data by CNS, CSI and NSID.
    data: BTreeMap<(u8, u8, u32), Vec<u8>>,
    /// Features that can be set, with their values.
    features: BTreeMap<u8, u32>,
    /// Host Behavior Support, and which formats of Copy it can enable; `None` where there is no such feature.
    behavior: Option<(HostBehaviorSupport, u16)>,
    /// Features that stay as they are.
    fixed: Vec<u8>,
    /// Opcodes that are refused.
    refused: Vec<u8>,

    registers: BTreeMap<u32, u32>,
    configurations: Vec<ControllerConfiguration>,
    queue: Option<Device>,
    seen: Vec<SubmissionQueueEntry>,
}

impl Drive {
    fn new() -> Self {
        let (domain, memory) = Memory::in_domain();
        let cap = ControllerCapabilities::new()
            .with_mqes(63)
            .with_to(1)
            .with_css(ControllerCapabilities::CSS_NVM | ControllerCapabilities::CSS_IO_COMMAND_SETS);
        let state = State { cap, ..State::default() };
        Self { domain, memory, page: DoorbellPage::new(1024), state: Arc::new(Mutex::new(state)) }
    }

    fn with(self, change: impl FnOnce(&mut State)) -> Self {
        change(&mut self.state.lock().unwrap());
        self
    }

    fn start(&self, options: Options) -> Result<Controller, ControllerError> {
        Controller::start(Box::new(self.clone()), options)
    }

    /// The commands with this opcode that it was asked.
    fn seen(&self, opcode: u8) -> Vec<SubmissionQueueEntry> {
        self.state.lock().unwrap().seen.iter().filter(|entry| entry.opcode == opcode).copied().collect()
    }
}

impl State {
    fn set(&mut self, cns: u8, csi: u8, nsid: u32, data: &(impl IntoBytes + Immutable)) {
        self.set_bytes(cns, csi, nsid, data.as_bytes().to_vec());
    }

    fn set_bytes(&mut self, cns: u8, csi: u8, nsid: u32, data: Vec<u8>) {
        self.data.insert((cns, csi, nsid), data);
    }

    fn answer(&mut self, device: &mut Device, entry: &SubmissionQueueEntry) {
        let (status, result) = self.run(device, entry);
        let mut completion = CompletionQueueEntry::new(entry.cid.get(), status);
        completion.set_result(u64::from(result));
        completion.sq_head.set(device.head);
        device.post(completion);
    }

    fn run(&mut self, device: &Device, entry: &SubmissionQueueEntry) -> (Status, u32) {
        const REFUSED: (Status, u32) = (Status::INVALID_FIELD.with_dnr(), 0);
        if self.refused.contains(&entry.opcode) {
            return REFUSED;
        }
        let (low, value) = (entry.cdw10.get() as u8, entry.cdw11.get());
        match entry.opcode {
            opcode::admin::IDENTIFY if low == cns::CONTROLLER => {
                device.write_data(entry, self.identify.as_bytes());
            }
            opcode::admin::IDENTIFY => {
                let Some(data) = self.data.get(&(low, (value >> 24) as u8, entry.nsid.get())) else {
                    return REFUSED;
                };
                device.write_data(entry, data);
            }
            opcode::admin::SET_FEATURES if low == feature::fid::NUMBER_OF_QUEUES => {
                return (Status::SUCCESS, value);
            }
            opcode::admin::SET_FEATURES | opcode::admin::GET_FEATURES
                if low == feature::fid::HOST_BEHAVIOR_SUPPORT =>
            {
                let Some((behavior, can)) = &mut self.behavior else { return REFUSED };
                if entry.opcode == opcode::admin::GET_FEATURES {
                    device.write_data(entry, behavior.as_bytes());
                } else {
                    *behavior = HostBehaviorSupport::read_from_bytes(&device.read_data(entry, 512)).unwrap();
                    behavior.cdfe &= *can;
                }
            }
            opcode::admin::SET_FEATURES if self.fixed.contains(&low) => return REFUSED,
            opcode::admin::SET_FEATURES => match self.features.get_mut(&low) {
                Some(feature) => *feature = value,
                None => return REFUSED,
            },
            opcode::admin::GET_FEATURES => match self.features.get(&low) {
                Some(&value) => return (Status::SUCCESS, value),
                None => return REFUSED,
            },
            _ => {}
        }
        (Status::SUCCESS, 0)
    }
}

impl Function for Drive {
    fn name(&self) -> &str {
        "answers:0"
    }

    fn domain(&self) -> &DmaDomain {
        &self.domain
    }

    fn read_register32(&self, offset: u32) -> Result<u32, FunctionError> {
        let state = self.state.lock().unwrap();
        let cap = state.cap.into_bits();
        Ok(match offset {
            CAP => cap as u32,
            4 => (cap >> 32) as u32,
            VS => Version::V2_0.0,
            CSTS => state.registers.get(&CC).copied().unwrap_or(0) & 1,
            offset => state.registers.get(&offset).copied().unwrap_or(0),
        })
    }

    fn write_register32(&self, offset: u32, value: u32) -> Result<(), FunctionError> {
        let mut state = self.state.lock().unwrap();
        state.registers.insert(offset, value);
        if offset == CC {
            let cc = ControllerConfiguration::from_bits(value);
            state.configurations.push(cc);
            let address = |at: u32| {
                let half = |at: u32| u64::from(state.registers.get(&at).copied().unwrap_or(0));
                half(at + 4) << 32 | half(at)
            };
            let addresses = (address(ASQ), address(ACQ));
            let entries = (state.registers.get(&AQA).copied().unwrap_or(0) & 0xfff) as u16 + 1;
            state.queue = cc
                .en()
                .then(|| Device::admin(Arc::clone(&self.memory), Arc::clone(&self.page), addresses, entries));
            self.page.reset();
        }
        Ok(())
    }

    fn forbid_dma(&self) -> Result<(), FunctionError> {
        self.state.lock().unwrap().queue = None;
        Ok(())
    }

    fn doorbell(&self, offset: u32) -> Result<Doorbell, FunctionError> {
        let index = (offset as usize - 0x1000) / 4;
        Ok(Doorbell::in_memory(Arc::clone(&self.page), index).unwrap())
    }

    fn stepper(&self, qid: u16) -> Option<Box<dyn Stepper>> {
        (qid == 0).then(|| Box::new(self.clone()) as Box<dyn Stepper>)
    }
}

impl Stepper for Drive {
    fn step(&mut self) {
        let mut state = self.state.lock().unwrap();
        let Some(mut device) = state.queue.take() else { return };
        for entry in device.fetch() {
            state.seen.push(entry);
            state.answer(&mut device, &entry);
        }
        state.queue = Some(device);
    }
}

fn profile(combinations: &[u64]) -> IoCommandSets {
    let mut sets = IoCommandSets::default();
    sets.combinations.iter_mut().zip(combinations).for_each(|(at, bits)| at.set(*bits));
    sets
}

fn descriptors(csi: u8) -> Vec<u8> {
    let mut list = NamespaceIdDescriptorBuilder::new();
    list.push(NamespaceIdDescriptor::NGUID, &[7; 16]).unwrap();
    list.push(NamespaceIdDescriptor::CSI, &[csi]).unwrap();
    list.as_bytes().to_vec()
}

fn list(ids: &[u32]) -> Vec<u8> {
    let mut list: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    list.resize(4096, 0);
    list
}

fn namespace(lbads: u8, ms: u16, flbas: u8, dps: u8) -> IdentifyNamespace {
    let mut namespace = IdentifyNamespace::default();
    (namespace.flbas, namespace.dps) = (flbas, dps);
    namespace.lbaf[0] = LbaFormat::new(lbads, ms);
    namespace
}

const COMBINATIONS: u8 = cns::IO_COMMAND_SET_COMBINATIONS;
const PROFILE: u8 = feature::fid::IO_COMMAND_SET_PROFILE;
const ZONED: u8 = csi::ZONED_NAMESPACE;

#[test]
fn with_one_combination_of_command_sets_nothing_is_selected() {
    let drive = Drive::new().with(|state| {
        state.set(COMBINATIONS, 0, 0, &profile(&[0b101]));
    });
    let controller = drive.start(Options::default()).unwrap();
    assert_eq!(controller.command_sets(), CommandSets::NVM | CommandSets::ZONED_NAMESPACE);
    let asked = drive.seen(opcode::admin::SET_FEATURES);
    assert!(asked.iter().all(|entry| feature::feature_id(entry) != PROFILE));
    let cc = drive.state.lock().unwrap().configurations.clone();
    let enabled = cc.iter().find(|cc| cc.en()).unwrap();
    assert_eq!(enabled.css(), ControllerConfiguration::CSS_ALL);
    // What may only change while EN is 0, was there before.
    let before = cc.iter().take_while(|cc| !cc.en()).last().unwrap();
    assert_eq!(before.with_en(true), *enabled);
}

#[test]
fn of_several_combinations_the_widest_is_selected_again_after_each_reset() {
    let drive = Drive::new().with(|state| {
        state.set(COMBINATIONS, 0, 0, &profile(&[0b1, 0b101, 0b10]));
        state.features.insert(PROFILE, 0);
    });
    let mut controller = drive.start(Options::default()).unwrap();
    assert_eq!(drive.state.lock().unwrap().features[&PROFILE], 1);
    drive.state.lock().unwrap().features.insert(PROFILE, 0);
    controller.restart().unwrap();
    assert_eq!(drive.state.lock().unwrap().features[&PROFILE], 1);
    assert!(controller.command_sets().has(ZONED));
}

#[test]
fn a_controller_that_keeps_to_its_combination_is_taken_at_its_word() {
    let drive = Drive::new().with(|state| {
        state.set(COMBINATIONS, 0, 0, &profile(&[0b1, 0b101, 0b11]));
        state.features.insert(PROFILE, 2);
        state.fixed.push(PROFILE);
    });
    let controller = drive.start(Options::default()).unwrap();
    assert_eq!(controller.command_sets(), CommandSets::NVM | CommandSets::KEY_VALUE);
}

#[test]
fn a_controller_that_knows_no_command_sets_has_the_nvm_command_set() {
    let drive = Drive::new().with(|state| {
        state.cap.set_css(ControllerCapabilities::CSS_NVM);
        state.set_bytes(cns::ACTIVE_NAMESPACE_LIST, 0, 0, list(&[3]));
        state.set(cns::NAMESPACE, 0, 3, &namespace(12, 0, 0, 0));
    });
    let mut controller = drive.start(Options::default()).unwrap();
    assert_eq!(controller.command_sets(), CommandSets::NVM);
    let namespaces = controller.namespaces().unwrap();
    assert_eq!((namespaces[0].nsid, namespaces[0].csi), (3, csi::NVM));
    assert_eq!(namespaces[0].format, Some(BlockFormat::plain(4096)));
    assert!(namespaces[0].independent.is_none() && namespaces[0].zoned.is_none());
    assert_eq!(controller.active_namespaces_of(csi::NVM).unwrap(), [3]);
    assert_eq!(controller.active_namespaces_of(ZONED).unwrap(), []);
    // It may never have heard of what came with command sets. Descriptors are older, and it refuses them.
    let asked = drive.seen(opcode::admin::IDENTIFY);
    let known = u32::from(cns::NAMESPACE_DESCRIPTORS);
    assert!(asked.iter().all(|entry| entry.cdw10.get() <= known && entry.cdw11.get() == 0), "{asked:?}");
    assert_eq!(namespaces[0].uuid, None);
}

#[test]
fn namespaces_of_different_command_sets_and_formats_are_each_told_as_they_are() {
    let drive = Drive::new().with(|state| {
        state.identify.ctratt.set(Ctratt::EXTENDED_LBA_FORMATS.bits());
        state.set(COMBINATIONS, 0, 0, &profile(&[0b111]));
        state.set_bytes(cns::ACTIVE_NAMESPACE_LIST, 0, 0, list(&[1, 2, 5]));
        state.set_bytes(cns::IO_COMMAND_SET_ACTIVE_LIST, ZONED, 0, list(&[2]));
        let mut extended = NvmNamespace::default();
        extended.elbaf[0] = ExtendedLbaFormat::new().with_pif(ExtendedLbaFormat::GUARD_64);
        state.set_bytes(cns::NAMESPACE_DESCRIPTORS, 0, 1, descriptors(csi::NVM));
        state.set(cns::NAMESPACE, 0, 1, &namespace(12, 16, IdentifyNamespace::FLBAS_EXTENDED, 1));
        state.set(cns::IO_COMMAND_SET_NAMESPACE, csi::NVM, 1, &extended);
        let mut zoned = IdentifyZonedNamespace::default();
        zoned.lbafe[0] = ZonedLbaFormatExtension::new(0x4000, 1);
        state.set_bytes(cns::NAMESPACE_DESCRIPTORS, 0, 2, descriptors(ZONED));
        state.set(cns::NAMESPACE, 0, 2, &namespace(9, 0, 0, 0));
        state.set(cns::IO_COMMAND_SET_NAMESPACE, ZONED, 2, &zoned);
        state.set_bytes(cns::NAMESPACE_DESCRIPTORS, 0, 5, descriptors(csi::KEY_VALUE));
    });
    let mut controller = drive.start(Options::default()).unwrap();
    let namespaces = controller.namespaces().unwrap();
    let sets: Vec<_> = namespaces.iter().map(|namespace| (namespace.nsid, namespace.csi)).collect();
    assert_eq!(sets, [(1, csi::NVM), (2, ZONED), (5, csi::KEY_VALUE)]);
    assert_eq!(namespaces[0].format.unwrap().protection.unwrap().size, 16);
    assert_eq!(namespaces[1].format, Some(BlockFormat::plain(512)));
    assert_eq!(namespaces[1].zoned.as_ref().unwrap().lbafe[0].zsze.get(), 0x4000);
    assert!(namespaces[2].identify.is_none() && namespaces[2].format.is_none());
    assert_eq!(controller.active_namespaces_of(ZONED).unwrap(), [2]);
    drop(controller);
    drive.state.lock().unwrap().set_bytes(cns::NAMESPACE_DESCRIPTORS, 0, 5, vec![0; 4096]);
    let error = drive.start(Options::default()).unwrap().namespaces().unwrap_err();
    assert!(error.to_string().contains("which command set namespace 5"), "{error}");
}

#[test]
fn a_zone_append_may_be_as_long_as_the_smaller_of_two_limits() {
    let drive = Drive::new().with(|state| {
        state.identify.mdts = 5;
        state.set(cns::IO_COMMAND_SET_CONTROLLER, ZONED, 0, &IdentifyZonedController::default());
    });
    let mut controller = drive.start(Options::default()).unwrap();
    let longest = 128 << 10;
    for (zasl, limit) in [
        (0, longest),
        (2, 16 << 10),
        (5, longest),
        (9, longest),
        (52, longest),
        (63, longest),
        (255, longest),
    ] {
        let mut zoned = IdentifyZonedController::default();
        zoned.zasl = zasl;
        drive.state.lock().unwrap().set(cns::IO_COMMAND_SET_CONTROLLER, ZONED, 0, &zoned);
        assert_eq!(controller.max_zone_append().unwrap(), limit, "ZASL {zasl}");
    }
    assert!(controller.nvm_limits().unwrap().is_none(), "it says nothing of them");
}

#[test]
fn the_volatile_write_cache_is_switched_where_there_is_one() {
    let drive = Drive::new().with(|state| {
        state.features.insert(feature::fid::VOLATILE_WRITE_CACHE, 1);
    });
    assert_eq!(drive.start(Options::default()).unwrap().volatile_write_cache().unwrap(), None);
    let drive = drive.with(|state| state.identify.vwc = Vwc::PRESENT.bits());
    let mut controller = drive.start(Options::default()).unwrap();
    assert_eq!(controller.volatile_write_cache().unwrap(), Some(true));
    controller.set_volatile_write_cache(false).unwrap();
    assert_eq!(controller.volatile_write_cache().unwrap(), Some(false));
}

fn shadowing(refused: bool) -> Drive {
    Drive::new().with(|state| {
        state.identify.oacs.set(Oacs::DOORBELL_BUFFER_CONFIG.bits());
        if refused {
            state.refused.push(opcode::admin::DOORBELL_BUFFER_CONFIG);
        }
    })
}

#[test]
fn a_controller_that_can_is_given_shadow_doorbells_in_each_run_and_their_memory_comes_back() {
    let drive = shadowing(false);
    let empty = drive.memory.mappings();
    let mut controller = drive.start(Options::default()).unwrap();
    assert!(controller.has_shadow_doorbells());
    let pair = controller.create_io_queue_pair().unwrap();
    let asked = drive.seen(opcode::admin::DOORBELL_BUFFER_CONFIG);
    assert_eq!((asked.len(), asked[0].psdt()), (1, 0));
    let (doorbells, events) = (asked[0].prp1(), asked[0].prp2());
    assert_eq!((doorbells % 4096, events), (0, doorbells + 4096));
    // The device may read and write both pages; it has the admin queue's doorbells there as well.
    let tail = drive.memory.read_u64(doorbells) as u32;
    assert_eq!(tail, drive.page.load(0).unwrap());
    let mut words = [0; 8];
    drive.memory.read(doorbells + 8, &mut words);
    assert_eq!(words, [0; 8], "of a queue that was just made");

    let stopped = controller.disable().unwrap();
    assert!(!controller.has_shadow_doorbells());
    pair.dismantle(&stopped).unwrap();
    controller.restart().unwrap();
    assert!(controller.has_shadow_doorbells());
    assert_eq!(drive.seen(opcode::admin::DOORBELL_BUFFER_CONFIG).len(), 2);
    drop(controller);
    assert_eq!(drive.memory.mappings(), empty, "nothing is left mapped");
}

#[test]
fn shadow_doorbells_are_not_set_up_where_they_are_not_wanted_refused_or_too_many() {
    let sent = |drive: &Drive| drive.seen(opcode::admin::DOORBELL_BUFFER_CONFIG).len();
    let unwanted = shadowing(false);
    let options = Options { shadow_doorbells: false, ..Options::default() };
    assert!(!unwanted.start(options).unwrap().has_shadow_doorbells());
    assert_eq!(sent(&unwanted), 0);

    let refused = shadowing(true);
    let mut controller = refused.start(Options::default()).unwrap();
    assert!(!controller.has_shadow_doorbells());
    // It is told of commands as before.
    controller.read_identify().unwrap();
    assert_eq!(sent(&refused), 1);

    let many = shadowing(false).with(|state| state.cap.set_dstrd(4));
    let options = Options { io_queues_wanted: 32, ..Options::default() };
    assert!(!many.start(options).unwrap().has_shadow_doorbells());
    assert_eq!(sent(&many), 0);
    let options = Options { io_queues_wanted: 31, ..Options::default() };
    assert!(many.start(options).unwrap().has_shadow_doorbells());
}

#[test]
fn sgls_are_used_by_io_queues_of_drives_that_take_them() {
    let with = |sgls: Sgls| Drive::new().with(|state| state.identify.sgls.set(sgls.bits()));
    let options = |data_pointers| Options { data_pointers, ..Options::default() };
    for (sgls, wanted, used) in [
        (Sgls::SUPPORTED, DataPointers::Auto, true),
        (Sgls::SUPPORTED_DWORD_ALIGNED, DataPointers::Auto, true),
        (Sgls::empty(), DataPointers::Auto, false),
        (Sgls::SUPPORTED, DataPointers::Prp, false),
        (Sgls::SUPPORTED, DataPointers::Sgl, true),
    ] {
        let drive = with(sgls);
        let controller = drive.start(options(wanted)).unwrap();
        assert_eq!(controller.uses_sgls(), used, "{sgls:?} {wanted:?}");
        // Admin commands never do.
        assert!(drive.state.lock().unwrap().seen.iter().all(|entry| entry.psdt() == 0));
    }
    let error = with(Sgls::empty()).start(options(DataPointers::Sgl)).unwrap_err();
    assert!(error.to_string().contains("take no SGLs"), "{error}");
}

#[test]
fn a_vendor_command_begins_where_its_data_cannot_be_taken_for_addresses() {
    let drive = Drive::new();
    let mut controller = drive.start(Options::default()).unwrap();
    controller.admin(SubmissionQueueEntry::new(0xc2), AdminData::In(8192)).unwrap();
    controller
        .admin(SubmissionQueueEntry::new(opcode::admin::SECURITY_RECEIVE), AdminData::In(8192))
        .unwrap();
    let vendor = drive.seen(0xc2)[0];
    assert_eq!(vendor.prp1() % 4096, 4, "so that it takes a list");
    let known = drive.seen(opcode::admin::SECURITY_RECEIVE)[0];
    assert_eq!((known.prp1() % 4096, known.prp2()), (0, known.prp1() + 4096));
}

#[test]
fn queues_are_no_longer_than_the_controller_takes_and_contiguous_whatever_it_takes() {
    for (mqes, capacity) in [(0, 1), (1, 1), (2, 2), (62, 62), (255, 255), (u16::MAX, 255)] {
        for cqr in [false, true] {
            let drive = Drive::new().with(|state| state.cap = state.cap.with_mqes(mqes).with_cqr(cqr));
            let mut controller = drive.start(Options::default()).unwrap();
            let pair = controller.create_io_queue_pair().unwrap();
            assert_eq!(pair.capacity(), capacity, "MQES {mqes}");
            for opcode in [opcode::admin::CREATE_IO_CQ, opcode::admin::CREATE_IO_SQ] {
                let create = drive.seen(opcode)[0];
                assert_eq!(usize::from((create.cdw10.get() >> 16) as u16), capacity, "QSIZE is 0's based");
                assert_eq!(create.cdw11.get() & 1, 1, "PC");
            }
            controller.delete_io_queue_pair(pair).unwrap();
        }
    }
}

#[test]
fn doorbells_are_where_the_stride_puts_them() {
    for dstrd in [0, 1, 4] {
        let drive = Drive::new().with(|state| state.cap.set_dstrd(dstrd));
        let mut controller = drive.start(Options::default()).unwrap();
        let mut pair = controller.create_io_queue_pair().unwrap();
        let far = std::time::Instant::now() + Duration::from_secs(60);
        let flush = SubmissionQueueEntry::new(opcode::nvm::FLUSH);
        pair.submit(&flush, CommandData::None, 0, far).unwrap();
        pair.ring();
        assert_eq!(drive.page.load(2 << dstrd), Some(1), "CAP.DSTRD {dstrd}");
        pair.dismantle(&controller.disable().unwrap()).unwrap();
    }
}

#[test]
fn a_controller_that_cannot_wait_for_its_media_is_told_to_be_ready_without() {
    for (crms, crime) in [(0, false), (1, false), (3, false), (2, true)] {
        let drive = Drive::new().with(|state| state.cap.set_crms(crms));
        drive.start(Options::default()).unwrap();
        let cc = drive.state.lock().unwrap().configurations.clone();
        assert_eq!(cc.iter().find(|cc| cc.en()).unwrap().crime(), crime, "CRMS {crms}");
    }
}

#[test]
fn formats_of_copy_that_name_namespaces_are_enabled_each_time_it_is_brought_up() {
    let behavior = HostBehaviorSupport { acre: 1, ..Default::default() };
    let with = |ocfs: u16, oncs: Oncs, behavior| {
        Drive::new().with(|state| {
            (state.identify.ocfs, state.identify.oncs) = (ocfs.into(), oncs.bits().into());
            state.behavior = behavior;
        })
    };
    let drive = with(0xffff, Oncs::COPY, Some((behavior, 0xffff)));
    let mut controller = drive.start(Options::default()).unwrap();
    assert_eq!(controller.copy_formats(), 0xf, "nobody knows others");
    let set = drive.state.lock().unwrap().behavior.unwrap().0;
    assert_eq!((set.acre, set.cdfe.get()), (1, 0b1100), "what else it says is as before");
    drive.state.lock().unwrap().behavior = Some((behavior, 1 << 2));
    controller.restart().unwrap();
    assert_eq!(controller.copy_formats(), 0b0111, "what it has enabled, whatever it was asked for");
    drive.state.lock().unwrap().behavior = None;
    controller.restart().unwrap();
    assert_eq!(controller.copy_formats(), 0b0011, "it goes on without");

    for (ocfs, oncs) in [(0b11, Oncs::COPY), (0b1111, Oncs::empty())] {
        let drive = with(ocfs, oncs, Some((behavior, 0xffff)));
        assert_eq!(drive.start(Options::default()).unwrap().copy_formats(), 0b11);
        assert!(drive.seen(opcode::admin::SET_FEATURES).iter().all(|set| set.cdw10.get() != 0x16));
    }
}
