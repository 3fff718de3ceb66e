use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use gangway_driver::controller::TimeLimits;
use gangway_spec::CompletionQueueEntry;
use gangway_spec::identify::Lpa;

use super::*;

/// A device that transfers two pages with a command, and whose log pages count their dwords.
struct Counting {
    identify: Box<IdentifyController>,
    asked: Rc<RefCell<Vec<GetLogPage>>>,
    answers: VecDeque<Vec<u8>>,
}

impl Device for Counting {
    fn is_ours(&self) -> bool {
        true
    }

    fn identify(&self) -> &IdentifyController {
        &self.identify
    }

    fn max_transfer(&self) -> usize {
        8192
    }

    fn time_limits(&self) -> TimeLimits {
        TimeLimits::default()
    }

    fn submit(
        &mut self,
        queue: QueueKind,
        entry: &SubmissionQueueEntry,
        _: Data<'_>,
    ) -> anyhow::Result<Ticket> {
        let get = GetLogPage::from(entry);
        let first = get.lpo as u32 / 4;
        self.answers.push_back((first..=first + get.numd).flat_map(u32::to_le_bytes).collect());
        self.asked.borrow_mut().push(get);
        Ok(Ticket { queue, number: 0 })
    }

    fn poll(&mut self, _: Ticket, _: Duration) -> anyhow::Result<Option<Answer>> {
        let data = self.answers.pop_front();
        Ok(data.map(|data| Answer { entry: CompletionQueueEntry::default(), data }))
    }

    fn register(&mut self, _: u32, _: u8) -> anyhow::Result<Option<u64>> {
        Ok(None)
    }

    fn reset(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn subsystem_reset(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}

fn session(lpa: Lpa) -> (Session, Rc<RefCell<Vec<GetLogPage>>>) {
    let asked = Rc::new(RefCell::new(Vec::new()));
    let mut identify = Box::<IdentifyController>::default();
    identify.lpa = lpa.bits();
    let device = Counting { identify, asked: Rc::clone(&asked), answers: VecDeque::new() };
    (Session { device: Box::new(device), name: "counting".to_owned() }, asked)
}

#[test]
fn a_long_log_page_is_read_in_parts_and_only_the_last_clears_its_event() {
    let (mut session, asked) = session(Lpa::EXTENDED_DATA);
    let request = GetLogPage { lsp: 3, lsi: 7, lpo: 1 << 40, rae: false, ..GetLogPage::new(0xc0, 0) };
    let bytes = session.log(request, 1, 20_002).unwrap();
    assert_eq!(bytes.len(), 20_002);
    let dwords: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|dword| u32::from_le_bytes(*dword)).collect();
    assert!(
        dwords.iter().enumerate().all(|(index, dword)| *dword == index as u32),
        "in order, and once each"
    );
    let asked = asked.borrow();
    let parts: Vec<_> = asked.iter().map(|get| (get.lpo - (1 << 40), get.length(), get.rae)).collect();
    // The last one is rounded up to whole dwords, and cut again.
    assert_eq!(parts, [(0, 8192, true), (8192, 8192, true), (16_384, 3620, false)]);
    assert!(asked.iter().all(|get| (get.lsp, get.lsi, get.lid) == (3, 7, 0xc0)));
}

#[test]
fn an_event_that_is_to_be_kept_is_kept_to_the_end() {
    let (mut session, asked) = session(Lpa::EXTENDED_DATA);
    session.log(GetLogPage { rae: true, ..GetLogPage::new(2, 0) }, 1, 10_000).unwrap();
    assert!(asked.borrow().iter().all(|get| get.rae));
}

#[test]
fn a_drive_without_offsets_is_not_asked_for_more_than_it_can_give() {
    let (mut session, asked) = session(Lpa::empty());
    let error = session.log(GetLogPage::new(2, 0), 1, 10_000).unwrap_err();
    assert!(error.to_string().contains("8192"), "{error}");
    assert!(asked.borrow().is_empty());
}
