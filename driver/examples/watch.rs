//! Watches a drive while it reads from it all the time: prints its events and its health, resets it when told to, gives
//! it back when somebody wants to remove it, and takes it up again when it comes back.
//!
//! ```text
//! watch pci:0000:01:00.0     a drive of this machine; `gangway bind 0000:01:00.0` gives it to vfio-pci first
//! watch emulated             a software drive in this process
//! ```
//!
//! It listens to standard input: `reset` for a function-level reset, `subsystem-reset` for one of the NVM subsystem, `quit`
//! to end. Nothing is written to the drive.

use std::error::Error;
use std::io::stdin;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use gangway_driver::address::DeviceAddress;
use gangway_driver::controller::{ControllerError, Health, Options};
use gangway_driver::{Controller, Direction, DmaDomain, QueuePair, Stopped};
use gangway_spec::{SubmissionQueueEntry, nvm, opcode};

/// Reads that are kept outstanding.
const DEPTH: usize = 16;
/// How often everything is looked at, unless the drive interrupts earlier.
const LOOK: Duration = Duration::from_millis(20);
/// How often the drive is looked for after it was removed.
const LOOK_FOR_IT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let Some(device) = std::env::args().nth(1) else {
        eprintln!("usage: watch DEVICE, where DEVICE is pci:ADDRESS or emulated[:OPTIONS]");
        return ExitCode::from(2);
    };
    match watch(&device) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("watch: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Watches a drive over all of its comings and goings, until `quit` or the end of standard input.
pub fn watch(device: &str) -> Result<(), Box<dyn Error>> {
    let orders = listen();
    // The memory stays while drives come and go.
    let domain = DmaDomain::new();
    let mut drive = Drive::open(device, &domain)?;
    loop {
        if drive.watch(&orders)?.is_break() {
            return drive.give_back();
        }
        drive.give_back()?;
        println!("given back; waiting for it to come again");
        drive = loop {
            thread::sleep(LOOK_FOR_IT);
            if orders.try_recv().is_ok_and(|order| order == "quit") {
                return Ok(());
            }
            if let Ok(drive) = Drive::open(device, &domain) {
                break drive;
            }
        };
    }
}

/// Lines of standard input; `quit` at its end.
fn listen() -> Receiver<String> {
    let (sender, orders) = channel();
    thread::spawn(move || {
        for line in stdin().lines().map_while(Result::ok).chain(["quit".to_owned()]) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    orders
}

struct Drive {
    controller: Controller,
    /// None while the controller is stopped.
    pair: Option<QueuePair>,
    read: u64,
}

impl Drive {
    fn open(device: &str, domain: &DmaDomain) -> Result<Self, Box<dyn Error>> {
        let function = device.parse::<DeviceAddress>()?.open(domain)?;
        let options = Options { io_queues_wanted: 1, interrupts: true, ..Options::default() };
        let mut controller = Controller::start(function, options)?;
        let pair = Some(controller.create_io_queue_pair()?);
        println!("watching {} {}", controller.function_name(), controller.identify().serial());
        println!("admin interrupt: {}", controller.admin_interrupt().is_some());
        Ok(Self { controller, pair, read: 0 })
    }

    /// Reads until the drive is to be given back (`Continue`), or this is to end (`Break`).
    fn watch(&mut self, orders: &Receiver<String>) -> Result<ControlFlow<()>, Box<dyn Error>> {
        let notices = self.controller.notices();
        let mut health = Health::Working;
        loop {
            self.keep_reading()?;
            match self.controller.admin_interrupt() {
                Some(interrupt) => drop(interrupt.wait(LOOK)),
                None => thread::sleep(LOOK),
            }
            let now = self.controller.health();
            if now != health {
                println!("health: {now:?}");
                health = now;
            }
            match health {
                Health::Working | Health::Paused => {}
                Health::Gone => return Ok(ControlFlow::Continue(())),
                Health::Fatal | Health::NotReady => self.recover(Controller::disable)?,
            }
            self.controller.reap_admin(&mut Vec::new())?;
            for event in self.controller.take_events() {
                println!("event: {event}, {} bytes", event.page.len());
            }
            if notices.removal.as_ref().is_some_and(|notice| notice.wait(Duration::ZERO)) {
                println!("removal requested, {} blocks read", self.read);
                return Ok(ControlFlow::Continue(()));
            }
            if notices.error.as_ref().is_some_and(|notice| notice.wait(Duration::ZERO)) {
                println!("the link reports an error");
                self.recover(Controller::function_level_reset)?;
            }
            match orders.try_recv().as_deref() {
                Ok("reset") => self.recover(Controller::function_level_reset)?,
                Ok("subsystem-reset") => self.recover(Controller::subsystem_reset)?,
                Ok("quit") => return Ok(ControlFlow::Break(())),
                _ => {}
            }
        }
    }

    /// Reaps what was read, and reads more.
    fn keep_reading(&mut self) -> Result<(), Box<dyn Error>> {
        let Some(pair) = &mut self.pair else { return Ok(()) };
        let mut completions = Vec::new();
        pair.reap(&mut completions)?;
        for completion in completions {
            let status = completion.entry.status();
            if !status.is_success() {
                return Err(format!("a read failed: {status}").into());
            }
            self.read += 1;
        }
        while pair.outstanding() < DEPTH && pair.has_room() {
            let mut entry = SubmissionQueueEntry::new(opcode::nvm::READ);
            entry.nsid.set(1);
            nvm::set_slba(&mut entry, 0);
            nvm::set_nlb(&mut entry, 1);
            let buffer = self.controller.domain().buffer(4096, Direction::DeviceWrites)?;
            let deadline = Instant::now() + self.controller.time_limits().io(entry.opcode);
            pair.submit(&entry, buffer.into(), 0, deadline).map_err(|rejected| rejected.reason)?;
        }
        pair.ring();
        Ok(())
    }

    /// Stops the controller in one way or another, and starts it again.
    fn recover(
        &mut self,
        stop: impl FnOnce(&mut Controller) -> Result<Stopped, ControllerError>,
    ) -> Result<(), Box<dyn Error>> {
        let stopped = stop(&mut self.controller)?;
        self.dismantle(&stopped)?;
        self.controller.restart()?;
        self.pair = Some(self.controller.create_io_queue_pair()?);
        println!("the controller works again");
        Ok(())
    }

    /// Gives the drive back to the system, in order if it still answers.
    fn give_back(mut self) -> Result<(), Box<dyn Error>> {
        let stopped = match self.controller.shutdown() {
            Ok(shutdown) => shutdown.stopped,
            Err(error) => {
                println!("{error}");
                self.controller.isolate()?
            }
        };
        self.dismantle(&stopped)
    }

    /// The memory of the reads that never completed comes back.
    fn dismantle(&mut self, stopped: &Stopped) -> Result<(), Box<dyn Error>> {
        if let Some(pair) = self.pair.take() {
            let commands = pair.dismantle(stopped).map_err(|_| "the queue pair is of another run")?;
            println!("{} reads were outstanding", commands.len());
        }
        Ok(())
    }
}
