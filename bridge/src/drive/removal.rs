//! A drive that was removed, and its coming back.
//!
//! Commands are held for a while ([`limits::HOLD`]), since a link that trains anew, or a slot that is switched off and
//! on, brings the drive back in seconds: hosts then notice a pause. After that they are answered with Namespace Not
//! Ready, without DNR. A Linux host tries each of them five times and then reports an error to what uses the block
//! device, so that a RAID above it goes on without it, and keeps its connection. It is not a status of the path (Internal
//! Path Error): with those a multipath host whose only path this is would try for ever, at once and again.

use std::time::{Duration, Instant};

use gangway_driver::controller::Controller;
use gangway_spec::status::Status;

use super::manager::{Condition, Held, Manager, Setback};
use super::{DriveEvent, limits};

/// A drive that is looked for.
pub(super) struct Search {
    next: Instant,
    pause: Duration,
    /// Until when commands are held; `None` when they no longer are.
    hold: Option<Instant>,
    /// What was last said about why it cannot be had.
    said: String,
}

impl Search {
    fn new(now: Instant) -> Self {
        let pause = limits::FIRST_LOOK;
        Self { next: now + pause, pause, hold: Some(now + limits::HOLD), said: String::new() }
    }

    /// Whether commands wait for it.
    pub(super) fn holds(&self) -> bool {
        self.hold.is_some()
    }

    /// How long there is nothing to do.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        let until = self.hold.map_or(self.next, |hold| hold.min(self.next));
        until.saturating_duration_since(now)
    }

    /// Whether it is time to look for it; sets when the next time is.
    fn is_due(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.pause = (self.pause * 3 / 2).min(limits::LONGEST_LOOK);
        self.next = now + self.pause;
        true
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
            tracing::warn!(drive = %self.name, "the drive did not come back; commands to it fail until it does");
            self.refuse(Status::NAMESPACE_NOT_READY);
        }
        if due && let Err(why) = self.take_up() {
            // Once for each reason: it is looked for often.
            if let Condition::Gone(search) = &mut self.condition
                && search.said != why
            {
                tracing::info!(drive = %self.name, why, "it cannot be had yet");
                search.said = why;
            }
        }
    }

    /// Takes the drive up again, if it is there and the one that it was.
    fn take_up(&mut self) -> Result<(), String> {
        let function = (self.open)().map_err(|error| error.to_string())?;
        let mut controller =
            Controller::start(function, self.options.clone()).map_err(|error| error.to_string())?;
        if let Some(difference) = self.info.difference(&controller, self.reactors.len()) {
            if let Err(error) = controller.shutdown() {
                tracing::warn!(drive = %self.name, %error, "what is in its place did not stop");
            }
            return Err(format!("{difference}; it is not served"));
        }
        let search = std::mem::replace(&mut self.condition, Condition::Works(Box::new(controller)));
        let mut pairs = Vec::new();
        let taken =
            self.refresh_namespaces().and_then(|()| self.create_pairs(&mut pairs).map_err(Setback::from));
        match taken {
            Ok(()) => {
                self.hand_out(pairs);
                tracing::info!(drive = %self.name, "the drive is back and works");
                self.tell(DriveEvent::Works);
                Ok(())
            }
            Err(Setback::Gone(why) | Setback::Failed(why)) => {
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
            looks += u32::from(search.is_due(now));
            search.hold.take_if(|hold| *hold <= now);
        }
        assert!((10..40).contains(&looks), "{looks}");
        assert!(!search.holds());
        assert!(search.pause(now) <= limits::LONGEST_LOOK);
    }
}
