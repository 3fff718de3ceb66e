//! A host that listens for asynchronous events.

use std::time::Duration;

use gangway_fabric::host::client::{AdminQueue, Transfer};
use gangway_spec::SubmissionQueueEntry;
use gangway_spec::aen::{self, AsyncEvent};
use gangway_spec::feature::fid;
use gangway_spec::log::lid;
use gangway_spec::opcode::admin;

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a host is told when namespaces have changed.
pub const NAMESPACES_CHANGED: AsyncEvent =
    AsyncEvent::new(aen::TYPE_NOTICE, aen::NOTICE_NAMESPACE_ATTRIBUTE_CHANGED, lid::CHANGED_NAMESPACES);

/// Sets the Asynchronous Event Configuration and asks for one event.
///
/// # Panics
/// When that fails.
pub fn listen(admin: &mut AdminQueue, configuration: u32) {
    let mut entry = SubmissionQueueEntry::new(admin::SET_FEATURES);
    entry.cdw10.set(fid::ASYNC_EVENT_CONFIGURATION.into());
    entry.cdw11.set(configuration);
    let set = admin.command(&entry, Transfer::None).expect("the connection lives");
    assert!(set.0.status().is_success(), "{}", set.0.status());
    ask(admin);
}

/// Asks for one event.
///
/// # Panics
/// When the connection has ended.
pub fn ask(admin: &mut AdminQueue) {
    let request = SubmissionQueueEntry::new(admin::ASYNC_EVENT_REQUEST);
    admin.queue().submit(&request, Transfer::None).expect("room on the queue");
    admin.queue().flush().expect("the connection lives");
}

/// The event that the host is told of.
///
/// # Panics
/// When there is none in time.
pub fn told(admin: &mut AdminQueue) -> AsyncEvent {
    let completed = admin.queue().wait(PATIENCE).expect("the connection lives").expect("an event in time");
    assert!(completed.entry.status().is_success(), "{}", completed.entry.status());
    AsyncEvent::from_dw0(completed.entry.dw0.get()).of(completed.entry.dw1.get())
}

/// The namespaces of the Changed Namespace List, which is empty afterwards.
///
/// # Panics
/// When it cannot be read.
pub fn changed_namespaces(admin: &mut AdminQueue) -> Vec<u32> {
    let list = admin.log_page(lid::CHANGED_NAMESPACES, u32::MAX, 0, 4096, false).expect("the list");
    let (numbers, _) = list.as_chunks::<4>();
    numbers.iter().map(|number| u32::from_le_bytes(*number)).take_while(|number| *number != 0).collect()
}
