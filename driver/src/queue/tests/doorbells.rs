//! Shadow doorbells, with a device that looks at them while it is awake and sleeps on its registers.

use super::*;
use crate::queue::ShadowDoorbells;

/// A device that has shadow doorbells.
struct Watcher {
    device: Device,
    memory: Arc<Memory>,
    doorbells: u64,
    events: u64,
    /// The tail that it has seen.
    tail: u16,
    asleep: bool,
}

fn watched(qid: u16, entries: u16, always: bool) -> (Bench2, Watcher) {
    let (domain, memory) = Memory::in_domain();
    let (mut pair, device, epoch) = testing::queue_pair_of(qid, &domain, &memory, entries, MAX);
    let shadow = ShadowDoorbells::new(&domain, 0, 4).unwrap().unwrap();
    pair.set_shadow_doorbells(&shadow, always);
    let (doorbells, events) = shadow.addresses();
    let offset = u64::from(qid) * 8;
    let watcher = Watcher {
        device,
        memory: Arc::clone(&memory),
        doorbells: doorbells + offset,
        events: events + offset,
        tail: 0,
        asleep: false,
    };
    (Bench2 { pair, epoch, memory }, watcher)
}

struct Bench2 {
    pair: QueuePair,
    epoch: Epoch,
    memory: Arc<Memory>,
}

impl Bench2 {
    fn submit(&mut self, user: u64) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        let entry = SubmissionQueueEntry::new(nvm::FLUSH);
        self.pair.submit(&entry, CommandData::None, user, deadline).is_ok()
    }
}

impl Watcher {
    fn shadow(&self, at: u64) -> u16 {
        let mut bytes = [0; 4];
        self.memory.read(at, &mut bytes);
        u32::from_le_bytes(bytes) as u16
    }

    fn shadow_tail(&self) -> u16 {
        self.shadow(self.doorbells)
    }

    fn shadow_head(&self) -> u16 {
        self.shadow(self.doorbells + 4)
    }

    fn set_event(&self, at: u64, value: u16) {
        self.memory.write(at, &u32::from(value).to_le_bytes());
    }

    /// Looks at the shadow; goes to sleep when there is nothing new.
    fn look(&mut self) {
        let tail = self.shadow_tail();
        if tail != self.tail {
            self.tail = tail;
            return;
        }
        // It says up to where it has seen, and looks once more before it relies on its register.
        self.set_event(self.events, self.tail);
        self.asleep = self.shadow_tail() == self.tail;
    }
}

#[test]
fn a_device_that_looks_by_itself_is_told_in_memory_alone() {
    let (mut b, mut watcher) = watched(1, 8, false);
    // It announced that it sleeps at 0: the first tail is rung, and the ones behind it are not.
    assert!(b.submit(1));
    b.pair.ring();
    assert_eq!((watcher.shadow_tail(), watcher.device.rung_tail()), (1, 1));
    for tail in 2..6 {
        assert!(b.submit(u64::from(tail)));
        b.pair.ring();
        assert_eq!((watcher.shadow_tail(), watcher.device.rung_tail()), (tail, 1));
    }
    watcher.set_event(watcher.events, 5);
    assert!(b.submit(6));
    b.pair.ring();
    assert_eq!((watcher.shadow_tail(), watcher.device.rung_tail()), (6, 6));
    for entry in watcher.device.fetch() {
        watcher.device.complete(entry.cid.get(), 0);
    }
    let mut out = Vec::new();
    b.pair.reap(&mut out).unwrap();
    assert_eq!((out.len(), watcher.shadow_head(), watcher.device.rung_head()), (6, 6, 6));
    b.pair.dismantle(&b.epoch.stopped()).unwrap();
}

#[test]
fn the_doorbells_of_the_admin_queue_are_written_in_both_places() {
    let (mut b, watcher) = watched(0, 8, true);
    watcher.set_event(watcher.events, 7);
    let keep_alive = SubmissionQueueEntry::new(admin::KEEP_ALIVE);
    for tail in 1..5 {
        b.pair.submit(&keep_alive, CommandData::None, 0, Instant::now()).unwrap();
        b.pair.ring();
        assert_eq!((watcher.shadow_tail(), watcher.device.rung_tail()), (tail, tail));
    }
    b.pair.dismantle(&b.epoch.stopped()).unwrap();
}

#[test]
fn shadows_that_come_late_begin_where_the_doorbells_are_and_nothing_is_told_in_memory_after_they_go() {
    let (domain, memory) = Memory::in_domain();
    let (mut pair, mut device, epoch) = testing::queue_pair_of(0, &domain, &memory, 8, MAX);
    let keep_alive = SubmissionQueueEntry::new(admin::KEEP_ALIVE);
    for _ in 0..3 {
        pair.submit(&keep_alive, CommandData::None, 0, Instant::now()).unwrap();
    }
    pair.ring();
    for entry in device.fetch() {
        device.complete(entry.cid.get(), 0);
    }
    pair.reap(&mut Vec::new()).unwrap();
    let shadow = ShadowDoorbells::new(&domain, 0, 4).unwrap().unwrap();
    pair.set_shadow_doorbells(&shadow, true);
    let at = |place: u64| memory.read_u64(shadow.addresses().0 + place) as u32;
    assert_eq!((at(0), at(4)), (3, 3));
    pair.remove_shadow_doorbells();
    pair.submit(&keep_alive, CommandData::None, 0, Instant::now()).unwrap();
    pair.ring();
    assert_eq!((at(0), device.rung_tail()), (3, 4));
    pair.dismantle(&epoch.stopped()).unwrap();
}

#[test]
fn a_queue_pair_that_takes_the_identifier_of_another_finds_nothing_of_its_doorbells() {
    let (domain, memory) = Memory::in_domain();
    let shadow = ShadowDoorbells::new(&domain, 0, 4).unwrap().unwrap();
    let (doorbells, events) = shadow.addresses();
    for at in [doorbells + 16, doorbells + 20, events + 16, events + 20] {
        memory.write(at, &77u32.to_le_bytes());
    }
    let (mut pair, _device, epoch) = testing::queue_pair_of(2, &domain, &memory, 8, MAX);
    pair.set_shadow_doorbells(&shadow, false);
    assert_eq!((memory.read_u64(doorbells + 16), memory.read_u64(events + 16)), (0, 0));
    pair.dismantle(&epoch.stopped()).unwrap();
}

#[test]
fn the_pages_stay_mapped_until_the_last_queue_pair_is_gone() {
    let (b, watcher) = watched(1, 8, false);
    let mapped = |memory: &Memory| {
        memory
            .mappings()
            .iter()
            .any(|&(iova, len)| iova <= watcher.doorbells && watcher.doorbells < iova + len as u64)
    };
    assert!(mapped(&b.memory));
    b.pair.dismantle(&b.epoch.stopped()).unwrap();
    assert!(!mapped(&b.memory));
    let (b, watcher) = watched(1, 8, false);
    drop(b.pair);
    // Leaked, since nobody knows that the device has stopped.
    assert_eq!(watcher.shadow_tail(), 0);
}

proptest! {
    #[test]
    fn a_device_that_sleeps_is_always_woken(
        entries in 2u16..9, steps in proptest::collection::vec(0u8..4, 1..400),
    ) {
        let (mut b, mut watcher) = watched(1, entries, false);
        let (mut given, mut done) = (0u64, 0u64);
        let mut out = Vec::new();
        for step in steps {
            match step {
                0 => given += u64::from(b.submit(given)),
                1 => {
                    if watcher.device.is_rung(|| b.pair.ring()) {
                        watcher.tail = watcher.device.rung_tail();
                        watcher.asleep = false;
                    }
                }
                2 => {
                    if !watcher.asleep {
                        watcher.look();
                    }
                    // All that it knows of, it completes at once.
                    while watcher.device.head != watcher.tail {
                        let entry = watcher.device.fetch_one();
                        watcher.device.complete(entry.cid.get(), 0);
                    }
                }
                _ => {
                    b.pair.reap(&mut out).unwrap();
                    done += out.drain(..).count() as u64;
                    prop_assert_eq!(watcher.shadow_head(), (done % u64::from(entries)) as u16);
                }
            }
            if watcher.asleep {
                prop_assert_eq!(watcher.tail, watcher.shadow_tail(), "it sleeps, and was not told");
            }
        }
        // Left alone it gets to the end of what it was told.
        b.pair.ring();
        for _ in 0..4 {
            watcher.tail = watcher.shadow_tail();
            while watcher.device.head != watcher.tail {
                let entry = watcher.device.fetch_one();
                watcher.device.complete(entry.cid.get(), 0);
            }
            b.pair.reap(&mut out).unwrap();
            done += out.drain(..).count() as u64;
        }
        prop_assert_eq!(given, done);
        b.pair.dismantle(&b.epoch.stopped()).unwrap();
    }
}
