//! Namespaces that are formatted, made, attached and deleted while hosts use them: each host concerned is told, and goes on
//! by what is there now, without a restart.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gangway_bridge::{HostPolicies, Mapping, Policy, Selection};
use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, IoQueue, Options, Transfer};
use gangway_spec::aen::AsyncEvent;
use gangway_spec::feature::fid;
use gangway_spec::identify::{IdentifyNamespace, Oacs, Oaes, cns};
use gangway_spec::log::lid;
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::reservation::{
    ReservationAcquireData, ReservationRegisterData, ReservationType, cptpl, rrega,
};
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::{Setup, TestTarget, command, identity, pattern};
use zerocopy::IntoBytes;

const SILENCE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);
const NO_SUCH_NAMESPACE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();
/// The export that shows the whole drive, and the one that shows its second namespace as 7.
const WHOLE: usize = 0;
const PART: usize = 1;
/// The LBA format of 512 bytes, and the one of 4096.
const FORMAT_512: u32 = 0;
const FORMAT_4096: u32 = 4;

/// A drive with two namespaces of 4096-byte blocks and room for more. Host 1 may manage it.
fn target(change: impl FnOnce(&mut EmulatedConfig)) -> TestTarget {
    TestTarget::with(setup(change))
}

fn setup(change: impl FnOnce(&mut EmulatedConfig)) -> Setup {
    let mut drive = EmulatedConfig {
        size: 8 << 20,
        block: 4096,
        namespaces: 2,
        capacity: Some(32 << 20),
        max_namespaces: Some(8),
        ..EmulatedConfig::default()
    };
    change(&mut drive);
    let mut policies = HostPolicies::default();
    let items = ["inspect", "manage"].map(|item| item.parse().unwrap());
    policies.name(&identity(1).nqn, Policy::new(items, []));
    let part = vec![Mapping { nsid: 7, drive: 0, drive_nsid: 2 }];
    Setup {
        drives: vec![drive],
        exports: Some(vec![Selection::Drive(0), Selection::Namespaces(part)]),
        policies,
        reactors: 2,
        ..Setup::default()
    }
}

fn host(target: &TestTarget, number: u8, export: usize) -> (AdminQueue, IoQueue) {
    let mut admin = target.host_with(number, export, &Options::default());
    let queue = admin.connect_io(1).unwrap();
    (admin, queue)
}

fn entry(opcode: u8, nsid: u32, cdw10: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(nsid);
    entry.cdw10.set(cdw10);
    entry
}

fn status(admin: &mut AdminQueue, entry: &SubmissionQueueEntry, transfer: Transfer) -> Status {
    admin.command(entry, transfer).unwrap().0.status()
}

fn format(admin: &mut AdminQueue, nsid: u32, lbaf: u32) -> Status {
    status(admin, &entry(admin::FORMAT_NVM, nsid, lbaf), Transfer::None)
}

/// Creates a namespace of so many blocks of 4096 bytes; its NSID.
fn create(admin: &mut AdminQueue, blocks: u64) -> u32 {
    let mut wanted = IdentifyNamespace::default();
    wanted.nsze.set(blocks);
    wanted.ncap.set(blocks);
    wanted.flbas = FORMAT_4096 as u8;
    let create = entry(admin::NAMESPACE_MANAGEMENT, 0, 0);
    let (completion, _) = admin.command(&create, Transfer::Write(wanted.as_bytes().into())).unwrap();
    assert!(completion.status().is_success(), "{}", completion.status());
    completion.dw0.get()
}

fn attach(admin: &mut AdminQueue, nsid: u32, sel: u32, controllers: &[u16]) -> Status {
    let mut list: Vec<u8> = (controllers.len() as u16).to_le_bytes().to_vec();
    list.extend(controllers.iter().flat_map(|controller| controller.to_le_bytes()));
    list.resize(4096, 0);
    status(admin, &entry(admin::NAMESPACE_ATTACHMENT, nsid, sel), Transfer::Write(list.into()))
}

/// Wants to hear of namespaces that changed.
fn listen(admin: &mut AdminQueue) {
    let mut set = entry(admin::SET_FEATURES, 0, fid::ASYNC_EVENT_CONFIGURATION.into());
    set.cdw11.set(Oaes::NAMESPACE_ATTRIBUTE.bits());
    assert!(status(admin, &set, Transfer::None).is_success());
    ask(admin);
}

fn ask(admin: &mut AdminQueue) {
    admin.queue().submit(&entry(admin::ASYNC_EVENT_REQUEST, 0, 0), Transfer::None).unwrap();
    admin.queue().flush().unwrap();
}

/// The namespaces that a host is told of, which reads of them.
fn told(admin: &mut AdminQueue) -> Vec<u32> {
    let completed = admin.queue().wait(PATIENCE).unwrap().expect("an event in time");
    assert_eq!(AsyncEvent::from_dw0(completed.entry.dw0.get()), AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
    let page = admin.log_page(lid::CHANGED_NAMESPACES, u32::MAX, 0, 4096, false).unwrap();
    ask(admin);
    let nsids = page.chunks(4).map(|nsid| u32::from_le_bytes(nsid.try_into().unwrap()));
    nsids.take_while(|nsid| *nsid != 0).collect()
}

fn assert_silence(admin: &mut AdminQueue) {
    assert!(admin.queue().wait(SILENCE).unwrap().is_none(), "nothing that concerns this host happened");
}

fn read(queue: &mut IoQueue, nsid: u32, bytes: u32) -> Status {
    let mut read = command(nvm::READ, 0, 1);
    read.nsid.set(nsid);
    queue.execute(&read, Transfer::Read(bytes)).unwrap().entry.status()
}

#[test]
fn a_format_by_one_host_is_seen_by_the_others_that_have_the_namespace() {
    let target = target(|_| {});
    let (mut first, mut queue) = host(&target, 1, WHOLE);
    let (mut second, mut second_queue) = host(&target, 2, WHOLE);
    let (mut third, mut third_queue) = host(&target, 3, PART);
    listen(&mut second);
    listen(&mut third);
    queue.write_blocks(1, 0, 4096, &pattern(1, 1, 4096)).unwrap();
    assert!(format(&mut first, 1, FORMAT_512).is_success());
    assert_eq!(told(&mut second), [1]);
    assert_silence(&mut third);
    assert_eq!(second.identify_namespace(1).unwrap().block_size(), Some(512));
    for queue in [&mut queue, &mut second_queue] {
        assert_eq!(
            read(queue, 1, 4096),
            Status::DATA_SGL_LENGTH_INVALID.with_dnr(),
            "it goes by the new blocks"
        );
        assert_eq!(queue.read_blocks(1, 0, 8, 512).unwrap(), vec![0; 4096], "its data is gone");
        assert!(read(queue, 2, 4096).is_success(), "the other namespace is as it was");
    }
    // The second one is 7 to the third host.
    assert!(format(&mut first, 2, FORMAT_512).is_success());
    assert_eq!(told(&mut second), [2]);
    assert_eq!(told(&mut third), [7]);
    assert!(read(&mut third_queue, 7, 512).is_success());
    // Also when nothing but the data is another.
    assert!(format(&mut first, 2, FORMAT_512).is_success());
    assert_eq!((told(&mut second), told(&mut third)), (vec![2], vec![7]));
    target.assert_no_violations();
}

#[test]
fn who_may_not_manage_a_drive_neither_formats_it_nor_sees_it_promised() {
    let target = target(|_| {});
    let (mut first, _) = host(&target, 1, WHOLE);
    let (mut second, _) = host(&target, 2, WHOLE);
    let (mut part, _) = host(&target, 1, PART);
    let promised = |admin: &mut AdminQueue| {
        Oacs::from_bits_retain(admin.identify_controller().unwrap().oacs.get())
            & (Oacs::FORMAT_NVM | Oacs::NAMESPACE_MANAGEMENT)
    };
    assert_eq!(promised(&mut first), Oacs::FORMAT_NVM | Oacs::NAMESPACE_MANAGEMENT);
    assert_eq!(promised(&mut second), Oacs::empty());
    assert_eq!(promised(&mut part), Oacs::FORMAT_NVM, "it does not see namespaces that are made");
    assert_eq!(format(&mut second, 1, FORMAT_512), Status::OPERATION_DENIED.with_dnr());
    // Of a namespace that is not shown, of all, and of one that is.
    assert_eq!(format(&mut part, 1, FORMAT_512), NO_SUCH_NAMESPACE);
    assert_eq!(format(&mut part, u32::MAX, FORMAT_512), Status::OPERATION_DENIED.with_dnr());
    assert!(format(&mut part, 7, FORMAT_512).is_success());
    assert_eq!(first.identify_namespace(2).unwrap().block_size(), Some(512));
    let delete = entry(admin::NAMESPACE_MANAGEMENT, 7, 1);
    assert_eq!(status(&mut part, &delete, Transfer::None), Status::OPERATION_DENIED.with_dnr());
    assert!(part.identify(cns::ALLOCATED_NAMESPACE_LIST, 0).is_err());
    target.assert_no_violations();
}

#[test]
fn an_export_of_some_namespaces_is_not_of_the_whole_drive_while_the_others_are_detached() {
    let target = target(|_| {});
    let (mut whole, _whole_queue) = host(&target, 1, WHOLE);
    let (mut part, _part_queue) = host(&target, 1, PART);
    let cntlid = whole.cntlid();
    assert!(attach(&mut whole, 1, 1, &[cntlid]).is_success());
    assert_eq!(whole.active_namespaces().unwrap(), [2]);
    let identify = part.identify_controller().unwrap();
    assert_eq!(identify.sanicap.get(), 0);
    let sanitize = entry(admin::SANITIZE, 0, 2);
    assert_eq!(status(&mut part, &sanitize, Transfer::None), Status::OPERATION_DENIED.with_dnr());
    assert_eq!(format(&mut part, u32::MAX, FORMAT_512), Status::OPERATION_DENIED.with_dnr());
    assert!(status(&mut whole, &sanitize, Transfer::None).is_success());
    target.assert_no_violations();
}

#[test]
fn a_namespace_that_is_made_appears_where_the_whole_drive_is_shown_and_goes_when_it_is_deleted() {
    let target = target(|_| {});
    let (mut first, mut queue) = host(&target, 1, WHOLE);
    let (mut second, mut second_queue) = host(&target, 2, WHOLE);
    let (mut third, _third_queue) = host(&target, 3, PART);
    listen(&mut second);
    listen(&mut third);
    let nsid = create(&mut first, 256);
    assert_eq!(nsid, 3);
    assert_eq!(first.active_namespaces().unwrap(), [1, 2], "it is not attached yet");
    let allocated = first.identify(cns::ALLOCATED_NAMESPACE_LIST, 2).unwrap();
    assert_eq!(allocated[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
    let cntlid = first.cntlid();
    for controllers in [&[][..], &[0], &[cntlid + 1], &[cntlid, cntlid + 1]] {
        assert!(
            attach(&mut first, nsid, 0, controllers).is(Status::CONTROLLER_LIST_INVALID),
            "{controllers:?}"
        );
    }
    assert_silence(&mut second);
    assert!(attach(&mut first, nsid, 0, &[cntlid]).is_success());
    assert_eq!(told(&mut second), [3]);
    assert_silence(&mut third);
    assert_eq!(second.active_namespaces().unwrap(), [1, 2, 3]);
    assert_eq!(third.active_namespaces().unwrap(), [7]);
    let list = first.identify(cns::ATTACHED_CONTROLLER_LIST, nsid).unwrap();
    assert_eq!(list[..4], [1, 0, cntlid as u8, (cntlid >> 8) as u8]);
    second_queue.write_blocks(3, 0, 4096, &pattern(3, 1, 4096)).unwrap();
    assert_eq!(queue.read_blocks(3, 0, 1, 4096).unwrap(), pattern(3, 1, 4096));
    // Detached, it is there and is not shown.
    assert!(attach(&mut first, nsid, 1, &[cntlid]).is_success());
    assert_eq!(told(&mut second), [3]);
    assert_eq!(read(&mut second_queue, 3, 4096), NO_SUCH_NAMESPACE);
    assert_eq!(second.identify(cns::NAMESPACE, 3).unwrap(), vec![0; 4096]);
    assert!(attach(&mut first, nsid, 0, &[cntlid]).is_success());
    assert_eq!(told(&mut second), [3]);
    assert_eq!(second_queue.read_blocks(3, 0, 1, 4096).unwrap(), pattern(3, 1, 4096));
    let delete = entry(admin::NAMESPACE_MANAGEMENT, nsid, 1);
    assert!(status(&mut first, &delete, Transfer::None).is_success());
    assert_eq!(told(&mut second), [3]);
    assert_eq!(second.active_namespaces().unwrap(), [1, 2]);
    assert_eq!(read(&mut second_queue, 3, 4096), NO_SUCH_NAMESPACE);
    // One that an export names by its number is shown again when it is back.
    let delete = entry(admin::NAMESPACE_MANAGEMENT, 2, 1);
    assert!(status(&mut first, &delete, Transfer::None).is_success());
    assert_eq!((told(&mut second), told(&mut third)), (vec![2], vec![7]));
    assert!(third.active_namespaces().unwrap().is_empty());
    assert_eq!(create(&mut first, 128), 2);
    assert!(attach(&mut first, 2, 0, &[cntlid]).is_success());
    assert_eq!(told(&mut third), [7]);
    assert_eq!(third.identify_namespace(7).unwrap().nsze.get(), 128);
    target.assert_no_violations();
}

/// Reads and writes a namespace until it is told to stop, by whatever blocks it has; how often that worked.
fn load(mut queue: IoQueue, nsid: u32, stop: &AtomicBool) -> (IoQueue, u32) {
    let mut done = 0;
    let mut outstanding = 0;
    while !stop.load(Ordering::Relaxed) || outstanding > 0 {
        while outstanding < 16 && !stop.load(Ordering::Relaxed) {
            for (opcode, transfer) in
                [(nvm::WRITE, Transfer::Write(vec![7; 4096].into())), (nvm::READ, Transfer::Read(4096))]
            {
                // One block of the one format, 8 of the other.
                for blocks in [1, 8] {
                    let mut entry = command(opcode, 16, blocks);
                    entry.nsid.set(nsid);
                    queue.submit(&entry, transfer.clone()).unwrap();
                    outstanding += 1;
                }
            }
        }
        let completed = queue.wait(PATIENCE).unwrap().expect("a completion in time");
        outstanding -= 1;
        match completed.entry.status() {
            status if status.is_success() => done += 1,
            // Of the other format, admitted before it changed, or while it did.
            status => assert!(
                status.is(Status::DATA_SGL_LENGTH_INVALID)
                    || status.is(Status::INVALID_NAMESPACE_OR_FORMAT)
                    || status.is(Status::FORMAT_IN_PROGRESS),
                "{status}"
            ),
        }
    }
    (queue, done)
}

#[test]
fn formats_under_load_let_no_command_go_by_the_old_blocks() {
    let target = target(|drive| drive.latency = Some(Duration::from_micros(300)));
    let (mut first, _queue) = host(&target, 1, WHOLE);
    let stop = Arc::new(AtomicBool::new(false));
    let users: Vec<_> = [(2, WHOLE, 2), (3, PART, 7), (4, WHOLE, 1)]
        .into_iter()
        .map(|(number, export, nsid)| {
            let (admin, queue) = host(&target, number, export);
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || (admin, load(queue, nsid, &stop)))
        })
        .collect();
    for round in 0..20 {
        let lbaf = if round % 2 == 0 { FORMAT_512 } else { FORMAT_4096 };
        assert!(format(&mut first, 2, lbaf).is_success(), "round {round}");
        assert_eq!(first.identify_namespace(2).unwrap().lba_format_index(), lbaf as usize);
    }
    stop.store(true, Ordering::Relaxed);
    for user in users {
        let (_admin, (_queue, done)) = user.join().unwrap();
        assert!(done > 0, "some of its commands are right at any time");
    }
    // The drive saw no transfer that its blocks do not imply, nor one beyond the memory that was for it.
    target.assert_no_violations();
}

#[test]
fn commands_wait_for_a_short_format_and_hear_of_a_long_one() {
    let target = target(|drive| drive.operation = Some(Duration::from_secs(10)));
    let (mut first, _queue) = host(&target, 1, WHOLE);
    let (mut second, mut second_queue) = host(&target, 2, WHOLE);
    let (_third, mut third_queue) = host(&target, 1, PART);
    let started = Instant::now();
    let tag = first.queue().submit(&entry(admin::FORMAT_NVM, 1, FORMAT_4096), Transfer::None).unwrap();
    first.queue().flush().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    // Other namespaces, and who is connected through another export, go on.
    assert!(read(&mut second_queue, 2, 4096).is_success());
    assert!(read(&mut third_queue, 7, 4096).is_success());
    assert!(started.elapsed() < Duration::from_secs(8), "nothing waited");
    // It waits for as long as hosts have patience, and hears then why.
    let found = read(&mut second_queue, 1, 4096);
    assert!(found.is(Status::FORMAT_IN_PROGRESS) && !found.dnr(), "{found}");
    assert_eq!(found.crd(), 0, "the host has not said that it heeds delays");
    let mut heeds = vec![0; 512];
    heeds[0] = 1;
    let set = entry(admin::SET_FEATURES, 0, fid::HOST_BEHAVIOR_SUPPORT.into());
    assert!(status(&mut second, &set, Transfer::Write(heeds.into())).is_success());
    let found = read(&mut second_queue, 1, 4096);
    assert!(found.is(Status::FORMAT_IN_PROGRESS) && found.crd() == 2, "{found}");
    second.keep_alive().unwrap();
    let completed = first.queue().wait(PATIENCE).unwrap().unwrap();
    assert!(completed.tag == tag && completed.entry.status().is_success());
    assert!(read(&mut second_queue, 1, 4096).is_success(), "it goes on");
    target.assert_no_violations();
}

#[test]
fn a_format_whose_host_has_gone_ends_and_lets_others_go_on() {
    let target = target(|drive| drive.operation = Some(Duration::from_secs(1)));
    let (mut first, queue) = host(&target, 1, WHOLE);
    let (mut second, mut second_queue) = host(&target, 2, WHOLE);
    listen(&mut second);
    first.queue().submit(&entry(admin::FORMAT_NVM, 1, FORMAT_512), Transfer::None).unwrap();
    first.queue().flush().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    drop((first, queue));
    // It waits until the format has ended, and is of the new blocks by then.
    assert!(!read(&mut second_queue, 1, 4096).is_success());
    assert_eq!(told(&mut second), [1]);
    assert!(read(&mut second_queue, 1, 512).is_success());
    target.assert_no_violations();
}

/// Registers a host with a key of 1, so that it outlives a restart.
fn register(queue: &mut IoQueue, nsid: u32) {
    let mut register = entry(nvm::RESERVATION_REGISTER, nsid, u32::from(cptpl::SET) << 30);
    register.cdw10.set(register.cdw10.get() | u32::from(rrega::REGISTER));
    let data = ReservationRegisterData { crkey: 0.into(), nrkey: 1.into() };
    let registered = queue.execute(&register, Transfer::Write(data.as_bytes().into())).unwrap();
    assert_eq!(registered.entry.status(), Status::SUCCESS);
}

/// Has it reserve the namespace for itself.
fn reserve(queue: &mut IoQueue, nsid: u32) {
    register(queue, nsid);
    let exclusive = u32::from(ReservationType::ExclusiveAccess.value()) << 8;
    let acquire = entry(nvm::RESERVATION_ACQUIRE, nsid, exclusive);
    let data = ReservationAcquireData { crkey: 1.into(), prkey: 0.into() };
    let acquired = queue.execute(&acquire, Transfer::Write(data.as_bytes().into())).unwrap();
    assert_eq!(acquired.entry.status(), Status::SUCCESS);
}

/// A target that keeps reservations in `state`, and whose hosts may all manage its drive.
fn keeping(state: &Path) -> TestTarget {
    let items = ["inspect", "manage"].map(|item| item.parse().unwrap());
    let policies = HostPolicies::all(Policy::new(items, []));
    TestTarget::with(Setup { policies, state: Some(state.to_owned()), ..setup(|_| {}) })
}

fn files(state: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(state.join("reservations")).unwrap().map(|file| file.unwrap().path()).collect()
}

#[test]
fn a_namespace_whose_reservations_cannot_be_read_is_not_shown() {
    let state = tempfile::tempdir().unwrap();
    let target = keeping(state.path());
    let (mut admin, mut queue) = host(&target, 1, WHOLE);
    register(&mut queue, 1);
    assert_eq!(create(&mut admin, 256), 3);
    let of_first = &files(state.path())[0];
    let name = of_first.to_str().unwrap().replace(".1.json", ".3.json");
    std::fs::write(name, "?").unwrap();
    let cntlid = admin.cntlid();
    assert!(attach(&mut admin, 3, 0, &[cntlid]).is_success());
    assert_eq!(admin.active_namespaces().unwrap(), [1, 2]);
    assert_eq!(read(&mut queue, 3, 4096), NO_SUCH_NAMESPACE);
    for command in [entry(admin::SANITIZE, 0, 2), entry(admin::FORMAT_NVM, u32::MAX, FORMAT_4096)] {
        let refused = status(&mut admin, &command, Transfer::None);
        assert!(!refused.is_success(), "{:#x}: it would be lost as well", command.opcode);
    }
    assert!(read(&mut queue, 1, 4096).is_success());
}

#[test]
fn a_reservation_protects_a_namespace_that_is_detached_and_ends_when_it_is_deleted() {
    let state = tempfile::tempdir().unwrap();
    let target = keeping(state.path());
    let (mut holder, mut queue) = host(&target, 1, WHOLE);
    let (mut other, mut other_queue) = host(&target, 2, WHOLE);
    let cntlid = holder.cntlid();
    assert_eq!(create(&mut holder, 256), 3);
    assert!(attach(&mut holder, 3, 0, &[cntlid]).is_success());
    reserve(&mut queue, 3);
    assert!(attach(&mut holder, 3, 1, &[cntlid]).is_success());
    let delete = entry(admin::NAMESPACE_MANAGEMENT, 3, 1);
    let conflict = Status::RESERVATION_CONFLICT.with_dnr();
    let others = other.cntlid();
    assert_eq!(attach(&mut other, 3, 0, &[others]), conflict);
    for command in [entry(admin::SANITIZE, 0, 2), delete] {
        assert_eq!(status(&mut other, &command, Transfer::None), conflict, "{:#x}", command.opcode);
    }
    assert_eq!(files(state.path()).len(), 1);
    assert!(status(&mut holder, &delete, Transfer::None).is_success());
    assert!(files(state.path()).is_empty(), "nothing is kept of it");
    assert_eq!(create(&mut other, 256), 3);
    assert!(attach(&mut other, 3, 0, &[others]).is_success());
    assert!(read(&mut other_queue, 3, 4096).is_success());
    assert!(status(&mut other, &delete, Transfer::None).is_success());
    target.assert_no_violations();
}
