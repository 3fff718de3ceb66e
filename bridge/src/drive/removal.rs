//! A drive that was removed, and its coming back.
//!
//! Commands are held for a while ([`limits::HOLD`]), since a link that trains anew, or a slot that is switched off and
//! on, brings the drive back in seconds: hosts then notice a pause. After that what waits is answered with Namespace Not
//! Ready, without DNR, and hosts are shown no namespace of the drive any more, as if it had been pulled out of the host
//! itself: a RAID above goes on without it, and their connections live. When the drive is back, so are its namespaces.
//! Namespace Not Ready is not a status of the path (Internal Path Error): with those a multipath host whose only path this
//! is would try for ever, at once and again.
//!
//! A drive with a volatile write cache goes on only when its SMART log shows that its power stayed on ([`Power`]): else
//! writes that hosts believe to be safe may be lost, and it is refused as another drive in its place would be.
//!
//! A thread of its own opens the drive: the kernel may take more than a minute for that, as long as it waits for the drive
//! that it was given back to come out of a reset. The manager goes on meanwhile, and the hold ends when it is to.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gangway_driver::controller::{Controller, Options};
use gangway_spec::status::Status;

use super::link::Request;
use super::manager::{Condition, Held, Manager, Setback};
use super::power::Power;
use super::{DriveEvent, DriveInfo, Opener, limits};

/// What came of looking for a drive: the drive, or why it cannot be had.
pub(super) type Found = Result<Box<Controller>, String>;

/// A drive that is looked for.
pub(super) struct Search {
    next: Instant,
    pause: Duration,
    /// Whether it is being opened.
    opening: bool,
    /// Until when commands are held; `None` when they no longer are.
    hold: Option<Instant>,
    /// What was last said about why it cannot be had.
    said: String,
}

impl Search {
    fn new(now: Instant) -> Self {
        let pause = limits::FIRST_LOOK;
        Self { next: now + pause, pause, opening: false, hold: Some(now + limits::HOLD), said: String::new() }
    }

    /// Whether commands wait for it.
    pub(super) fn holds(&self) -> bool {
        self.hold.is_some()
    }

    /// How long there is nothing to do.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        let next = (!self.opening).then_some(self.next);
        let until = next.into_iter().chain(self.hold).min();
        until.map_or(limits::LONGEST_LOOK, |until| until.saturating_duration_since(now))
    }

    /// Whether it is time to open it; says from then on that it is being opened.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = !self.opening && now >= self.next;
        self.opening |= due;
        due
    }

    /// It could not be had: it is tried again later.
    fn failed(&mut self, now: Instant) {
        self.opening = false;
        self.pause = (self.pause * 3 / 2).min(limits::LONGEST_LOOK);
        self.next = now + self.pause;
    }
}

impl Manager {
    /// The drive is gone. `pairs` are the queue pairs that came back, all there are.
    pub(super) fn removed(&mut self, why: &str, mut pairs: Vec<Held>) {
        let search = Condition::Gone(Search::new(Instant::now()));
        let Condition::Works(mut controller) = std::mem::replace(&mut self.condition, search) else { return };
        tracing::error!(
            drive = %self.name,
            why,
            "the drive is gone; commands to it wait for {} s, then fail, and it is looked for until it is back",
            limits::HOLD.as_secs()
        );
        self.ladder.clear();
        self.aborts.clear();
        match controller.isolate() {
            Ok(stopped) => {
                self.dismantle(&stopped, &mut pairs);
                self.admin.interrupt(controller.take_aborted_admin());
            }
            Err(error) => {
                tracing::error!(drive = %self.name, %error, "it may still reach memory; what it had stays as it is");
                pairs.into_iter().for_each(|(place, pair)| self.abandon(place, pair));
                self.admin.interrupt(Vec::new());
            }
        }
        // Closes the function, so that it can be opened again.
        drop(controller);
        self.tell(DriveEvent::Removed);
    }

    /// Looks for a drive that was removed, when it is time to.
    pub(super) fn look_for_it(&mut self) {
        let now = Instant::now();
        let Condition::Gone(search) = &mut self.condition else { return };
        let gave_up_holding = search.hold.take_if(|hold| *hold <= now).is_some();
        let due = search.is_due(now);
        if gave_up_holding {
            tracing::warn!(
                drive = %self.name,
                "the drive did not come back; commands to it fail, and hosts see none of its namespaces, until it does"
            );
            self.refuse(Status::NAMESPACE_NOT_READY);
            self.withdraw_namespaces();
        }
        if due {
            self.start_opening();
        }
    }

    /// Opens the drive in a thread, which reports what came of it.
    fn start_opening(&mut self) {
        let (open, options, info) = (Arc::clone(&self.open), self.options.clone(), Arc::clone(&self.info));
        let (reactors, link, power) = (self.reactors.len(), self.link.clone(), self.power);
        let look = move || {
            link.send(Request::Found(open_again(&open, options, &info, reactors, power)));
        };
        if let Err(error) = thread::Builder::new().name(format!("open-{}", self.index)).spawn(look) {
            self.found(Err(format!("no thread can be started to open it: {error}")));
        }
    }

    /// What came of opening the drive.
    pub(super) fn found(&mut self, found: Found) {
        let Err(why) = found.and_then(|controller| self.take_up(controller)) else { return };
        if let Condition::Gone(search) = &mut self.condition {
            search.failed(Instant::now());
            // Once for each reason: it is looked for often.
            if search.said != why {
                tracing::warn!(drive = %self.name, why, "it cannot be had yet");
                search.said = why;
            }
        }
    }

    /// Takes the drive up again.
    fn take_up(&mut self, controller: Box<Controller>) -> Result<(), String> {
        let search = std::mem::replace(&mut self.condition, Condition::Works(controller));
        let mut pairs = Vec::new();
        // Hosts may use namespaces as soon as they see them again: then reactors have their queue pairs. Commands that
        // were held may go only when it is known that the namespaces are what they were.
        let unseen = self.has_withdrawn_namespaces();
        let taken = self.create_pairs(&mut pairs).map_err(Setback::from).and_then(|()| {
            if unseen {
                self.hand_out(std::mem::take(&mut pairs));
            }
            self.refresh_namespaces()
        });
        match taken {
            Ok(()) => {
                self.note_power();
                self.hand_out(pairs);
                tracing::info!(drive = %self.name, "the drive is back and works");
                self.tell(DriveEvent::Works);
                Ok(())
            }
            Err(Setback::Gone(why) | Setback::Failed(why)) => {
                if unseen {
                    pairs.extend(self.freeze().0);
                    self.refuse(Status::NAMESPACE_NOT_READY);
                }
                let back = std::mem::replace(&mut self.condition, search);
                if let Condition::Works(mut controller) = back
                    && let Ok(stopped) = controller.isolate()
                {
                    self.dismantle(&stopped, &mut pairs);
                }
                Err(why)
            }
        }
    }
}

/// Opens what is in the place of a drive and starts it, if it is the drive that was there.
fn open_again(
    open: &Mutex<Opener>,
    options: Options,
    info: &DriveInfo,
    reactors: usize,
    power: Power,
) -> Found {
    let function = {
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        open().map_err(|error| error.to_string())?
    };
    let mut controller = Controller::start(function, options).map_err(|error| error.to_string())?;
    let difference = info.difference(&controller, reactors);
    match difference.or_else(|| power.loss(&Power::read(&mut controller))) {
        None => Ok(Box::new(controller)),
        Some(difference) => {
            if let Err(error) = controller.shutdown() {
                tracing::warn!(drive = %info.name, %error, "what is in its place did not stop");
            }
            Err(format!("{difference}; it is not served"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_at_once_and_ever_more_rarely_but_never_given_up() {
        let start = Instant::now();
        let mut search = Search::new(start);
        let (mut now, mut looks) = (start, 0);
        while now < start + Duration::from_secs(60) {
            now += search.pause(now).max(Duration::from_millis(1));
            if search.is_due(now) {
                looks += 1;
                assert!(!search.is_due(now), "it is opened once at a time");
                search.failed(now);
            }
            search.hold.take_if(|hold| *hold <= now);
        }
        assert!((10..40).contains(&looks), "{looks}");
        assert!(!search.holds());
        assert!(search.pause(now) <= limits::LONGEST_LOOK);
    }
    #[test]
    fn opening_that_takes_long_does_not_put_off_the_end_of_the_hold() {
        let start = Instant::now();
        let mut search = Search::new(start);
        let now = start + limits::FIRST_LOOK;
        assert!(search.is_due(now));
        assert_eq!(now + search.pause(now), start + limits::HOLD);
        search.hold = None;
        assert!(search.pause(now) > Duration::ZERO, "there is nothing to do until it is opened");
    }
}
