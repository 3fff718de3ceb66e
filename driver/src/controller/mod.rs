//! A controller: from a function that was just opened to queue pairs that take I/O, and back.
//!
//! [`Controller::start`] resets and enables it, reads Identify Controller and asks for I/O queues. Queue pairs are
//! handed out, go to other threads, and come back to be deleted. [`Controller::disable`] stops everything at once and
//! gives the proof ([`Stopped`]) with which queue pairs release the memory of commands that never completed;
//! [`Controller::restart`] brings it up again, as a new run.

mod abort;
mod admin;
mod copy_formats;
pub(crate) mod epoch;
mod error;
mod events;
mod health;
mod io_queues;
mod limits;
mod namespaces;
mod options;
mod registers;
mod resets;
mod shadow;
mod signals;
mod tag;

#[cfg(test)]
mod feature_tests;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::mem;
use std::time::{Duration, Instant};

use gangway_spec::IdentifyController;
use gangway_spec::identify::CommandSets;
use gangway_spec::registers::{ControllerCapabilities, Version};

use self::abort::Aborts;
pub use self::abort::{AbortAnswer, AbortOutcome};
pub use self::admin::AdminData;
pub use self::epoch::Stopped;
use self::epoch::{Epoch, Run};
pub use self::error::ControllerError;
use self::events::Events;
pub use self::events::{ChangedNamespaces, Event, EventKind};
pub use self::health::Health;
pub use self::io_queues::{Deleted, DeletionFailed};
pub use self::limits::TimeLimits;
pub use self::namespaces::Namespace;
pub use self::options::Options;
use self::registers::Registers;
use self::tag::Tag;
use crate::dma::{CommandData, DmaDomain, DmaError, PAGE_SIZE};
use crate::function::{Function, Interrupt};
use crate::queue::{Completion, QueuePair, SglRules, ShadowDoorbells};

/// Entries of the admin queues: room for asynchronous event requests and a few commands of each host.
const ADMIN_ENTRIES: u16 = 128;

/// What a shutdown is given when the controller does not say (RTD3E is 0), and at least.
const SHORTEST_SHUTDOWN: Duration = Duration::from_secs(5);

/// And at most: an exit must not hang on a number that makes no sense.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(60);

/// How a controller was shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// That it is stopped.
    pub stopped: Stopped,
    /// Whether it said that it is done, so that it kept all data it had promised to keep.
    pub in_order: bool,
}

/// An NVMe controller that this process drives.
pub struct Controller {
    // The admin queue stands before the function: it is dropped first.
    admin: QueuePair,
    function: Box<dyn Function>,
    options: Options,
    run: Run,
    enabled: bool,
    /// The function was closed: it is not to be had again.
    given_back: bool,
    capabilities: ControllerCapabilities,
    version: Version,
    identify: Box<IdentifyController>,
    max_transfer: u32,
    limits: TimeLimits,
    io_queue_limit: u16,
    /// The I/O command sets that are enabled.
    command_sets: CommandSets,
    /// Copy descriptor formats that it takes, as bits of OCFS.
    copy_formats: u16,
    /// How I/O commands use SGLs, if they do.
    sgl: Option<SglRules>,
    /// What the controller was given in this run; it may look at it until it is stopped.
    shadow_doorbells: Option<ShadowDoorbells>,
    /// What the function's vectors signal; empty when queues do not interrupt.
    interrupts: Vec<Interrupt>,
    queues_in_use: BTreeSet<u16>,
    /// Queue pairs that could not be deleted; they wait for proof that the controller was stopped.
    orphans: Vec<QueuePair>,
    /// Completions of the manager's admin commands that came while another was waited for.
    kept: Vec<Completion>,
    /// The manager's admin commands that were outstanding when the controller was stopped.
    aborted: Vec<(u64, CommandData)>,
    aborts: Aborts,
    events: Events,
    /// Since when it was seen to pause.
    paused_since: Option<Instant>,
    last_awaited: u64,
}

impl Controller {
    /// Resets and enables the controller of a function, identifies it, and asks it for I/O queues.
    ///
    /// # Errors
    /// When the function does not answer, is none that this driver can drive, or does not get ready in the time it
    /// states itself.
    pub fn start(function: Box<dyn Function>, options: Options) -> Result<Controller, ControllerError> {
        let options = options.checked();
        let registers = Registers::new(&*function);
        let capabilities = registers.capabilities()?;
        let version = registers.version()?;
        registers.disable(capabilities)?;
        function.allow_dma()?;
        let run = Run::new(Epoch::first());
        let mut controller = Controller {
            admin: admin_queue(&*function, run.clone(), capabilities, &options)?,
            function,
            run,
            enabled: false,
            given_back: false,
            capabilities,
            version,
            identify: Box::default(),
            max_transfer: options.max_transfer,
            limits: TimeLimits::new(&options, Duration::ZERO, 0),
            io_queue_limit: 0,
            command_sets: CommandSets::NVM,
            copy_formats: 0,
            sgl: None,
            shadow_doorbells: None,
            interrupts: Vec::new(),
            queues_in_use: BTreeSet::new(),
            orphans: Vec::new(),
            kept: Vec::new(),
            aborted: Vec::new(),
            aborts: Aborts::default(),
            events: Events::default(),
            paused_since: None,
            last_awaited: 0,
            options,
        };
        controller.bring_up()?;
        if controller.options.interrupts {
            controller.enable_interrupts();
        }
        Ok(controller)
    }

    /// The function's name: `pci:0000:01:00.0`, `emulated:0`.
    pub fn function_name(&self) -> &str {
        self.function.name()
    }

    /// Identify Controller, as it was read when the controller was last brought up.
    pub fn identify(&self) -> &IdentifyController {
        &self.identify
    }

    /// CAP.
    pub fn capabilities(&self) -> ControllerCapabilities {
        self.capabilities
    }

    /// VS.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The most bytes that one command may transfer: what MDTS says, and the options. A multiple of 4096.
    pub fn max_transfer(&self) -> u32 {
        self.max_transfer
    }

    /// How many I/O queue pairs the controller grants.
    pub fn io_queue_limit(&self) -> u16 {
        self.io_queue_limit
    }

    /// How many commands an I/O queue pair takes.
    pub fn io_queue_capacity(&self) -> u16 {
        self.options.io_entries(self.capabilities) - 1
    }

    /// The domain that memory for this controller comes from.
    pub fn domain(&self) -> &DmaDomain {
        self.function.domain()
    }

    /// What the controller signals when it has completed an admin command or has an event to tell of, if
    /// [`Options::interrupts`] asks for it and the function can: then is the time for [`Controller::reap_admin`]. It may be
    /// signalled without either. Without interrupts the admin queue is to be looked at now and then.
    pub fn admin_interrupt(&self) -> Option<&Interrupt> {
        // The admin completion queue always has vector 0 (NVMe Base 2.0, 3.1.3.10), and always interrupts.
        self.interrupts.first()
    }

    /// Reads the 32-bit register at `offset`, such as [`CSTS`](gangway_spec::registers::CSTS).
    ///
    /// # Errors
    /// [`ControllerError::Function`] when the controller does not answer or has no such register.
    pub fn read_register32(&self, offset: u32) -> Result<u32, ControllerError> {
        Ok(self.function.read_register32(offset)?)
    }

    /// Reads the 64-bit register at `offset`, such as [`CAP`](gangway_spec::registers::CAP).
    ///
    /// # Errors
    /// As [`Controller::read_register32`].
    pub fn read_register64(&self, offset: u32) -> Result<u64, ControllerError> {
        Ok(self.function.read_register64(offset)?)
    }

    /// The admin queue, for commands that are not waited for. Tags must be below 2^63, and completions are to be
    /// fetched with [`Controller::reap_admin`].
    pub fn admin_queue(&mut self) -> &mut QueuePair {
        &mut self.admin
    }

    /// Stops the controller: CC.EN to 0, and CSTS.RDY seen to follow. From here on its queue pairs take no commands
    /// and do not ring. One that rings in this very moment, on another thread, may still reach the controller: that
    /// reactors stopped using them before is up to the caller.
    ///
    /// # Errors
    /// When the controller does not follow. It is then not known to be quiet, and all memory stays where it is.
    pub fn disable(&mut self) -> Result<Stopped, ControllerError> {
        self.end_run();
        self.registers().disable(self.capabilities)?;
        Ok(self.is_stopped())
    }

    /// Ends the run for all who take part in it, also for those who sleep until a queue pair interrupts: the controller
    /// will not wake them any more.
    fn end_run(&self) {
        self.run.end();
        self.interrupts.iter().for_each(Interrupt::signal);
    }

    /// The controller of this run was seen to be stopped: what it had comes back.
    fn is_stopped(&mut self) -> Stopped {
        self.enabled = false;
        let stopped = self.run.epoch().stopped();
        self.drain_admin(&stopped);
        for orphan in mem::take(&mut self.orphans) {
            if let Err(foreign) = orphan.dismantle(&stopped) {
                self.orphans.push(foreign);
            }
        }
        self.queues_in_use.clear();
        self.shadow_doorbells = None;
        stopped
    }

    /// Changes how long ordinary admin commands may take ([`Options::admin_timeout`]).
    pub fn set_admin_timeout(&mut self, limit: Duration) {
        self.options.admin_timeout = limit;
        self.options = self.options.clone().checked();
        self.limits = self.limits.with_admin(self.options.admin_timeout);
    }

    /// The admin commands that were submitted with [`Controller::admin_queue`] and were outstanding when the
    /// controller was disabled: what was given along with them.
    pub fn take_aborted_admin(&mut self) -> Vec<(u64, CommandData)> {
        mem::take(&mut self.aborted)
    }

    /// Brings the controller up again, as a new run; disables it first when it is not. Queue pairs of earlier runs
    /// can then only be dismantled.
    ///
    /// # Errors
    /// As [`Controller::start`]. It may be tried again.
    pub fn restart(&mut self) -> Result<(), ControllerError> {
        if self.enabled {
            self.disable()?;
        } else {
            // Something else may have enabled it, or an earlier attempt got stuck half-way.
            self.registers().disable(self.capabilities)?;
            self.drain_admin(&self.run.epoch().stopped());
        }
        // It may have been cut off from memory.
        self.function.allow_dma()?;
        self.run = Run::new(self.run.epoch().next());
        self.capabilities = self.registers().capabilities()?;
        self.version = self.registers().version()?;
        self.admin = admin_queue(&*self.function, self.run.clone(), self.capabilities, &self.options)?;
        self.bring_up()
    }

    /// Shuts the controller down in order (CC.SHN), so that it loses no data it promised to keep when its power goes,
    /// and stops it. The controller writes out its volatile write cache in that; no Flush is needed before.
    ///
    /// The shutdown is given as long as the controller states (RTD3E), 5 to 60 s. Then the controller is disabled, which
    /// may take what it states for that besides (CAP.TO or CRTO, ten minutes at most). The shutdown of one that failed
    /// (CSTS.CFS) is not waited for.
    ///
    /// # Errors
    /// As [`Controller::disable`]. That only the shutdown does not finish is no error: the controller is stopped all the
    /// same, and [`Shutdown::in_order`] tells.
    pub fn shutdown(&mut self) -> Result<Shutdown, ControllerError> {
        let stated = Duration::from_micros(u64::from(self.identify.rtd3e.get()));
        let limit = stated.clamp(SHORTEST_SHUTDOWN, LONGEST_SHUTDOWN);
        let shut_down = self.registers().shut_down(limit);
        if let Err(error) = &shut_down {
            tracing::warn!(%error, "the controller did not shut down in order");
        }
        Ok(Shutdown { stopped: self.disable()?, in_order: shut_down.is_ok() })
    }

    /// Takes what is outstanding off the admin queue: callers get theirs back, and of the controller's own commands
    /// nobody wants to know any more.
    fn drain_admin(&mut self, stopped: &Stopped) {
        let outstanding = self.admin.stop(stopped).unwrap_or_default();
        self.aborted.extend(outstanding.into_iter().filter(|(user, _)| Tag::of(*user) == Tag::Caller));
        self.aborts = Aborts::default();
        self.events.end_run();
    }

    fn bring_up(&mut self) -> Result<(), ControllerError> {
        // From here on the controller may touch the admin queue, also when something fails.
        self.enabled = true;
        let (entries, addresses) = (self.admin.entries(), self.admin.addresses());
        self.registers().enable(self.capabilities, entries, addresses)?;
        self.admin.set_stepper(self.function.stepper(0));
        self.identify = self.read_identify()?;
        self.max_transfer = self.limit_transfer();
        let erasure = self.read_erasure_estimate()?;
        self.limits = TimeLimits::new(&self.options, erasure, self.identify.mtfa.get());
        self.settle_data_pointers()?;
        self.settle_command_sets()?;
        self.settle_copy_formats()?;
        let wanted = self.options.io_queues_wanted;
        self.io_queue_limit = self.set_number_of_queues(wanted)?;
        self.set_up_shadow_doorbells()?;
        self.start_events()?;
        tracing::info!(
            function = self.function_name(),
            model = %self.identify.model(),
            serial = %self.identify.serial(),
            version = %self.version,
            max_transfer = self.max_transfer,
            io_queues = self.io_queue_limit,
            sgls = self.uses_sgls(),
            shadow_doorbells = self.has_shadow_doorbells(),
            "controller ready"
        );
        Ok(())
    }

    /// Switches a vector on for each I/O queue, and vector 0 for the admin queue. They stay on over resets.
    fn enable_interrupts(&mut self) {
        match self.function.enable_interrupts(self.io_queue_limit.saturating_add(1)) {
            Ok(interrupts) => self.interrupts = interrupts,
            Err(error) => tracing::warn!(%error, "completions will be looked for now and then"),
        }
    }

    fn limit_transfer(&self) -> u32 {
        let smallest_page = PAGE_SIZE as u64;
        match self.identify.max_transfer(smallest_page) {
            Some(limit) => u32::try_from(limit).unwrap_or(u32::MAX).min(self.options.max_transfer),
            None => self.options.max_transfer,
        }
    }

    fn registers(&self) -> Registers<'_> {
        Registers::new(&*self.function)
    }

    fn dma_error(&self, source: DmaError) -> ControllerError {
        ControllerError::Dma { function: self.function_name().to_owned(), source }
    }

    fn unsupported(&self, reason: &str) -> ControllerError {
        ControllerError::Unsupported { function: self.function_name().to_owned(), reason: reason.to_owned() }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if self.enabled
            && let Err(error) = self.disable()
        {
            // The queues leak what is outstanding on them, as nobody knows what the controller still does.
            tracing::error!(%error, "a controller was let go that could not be stopped");
            mem::forget(self.shadow_doorbells.take());
        }
    }
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller")
            .field("function", &self.function_name())
            .field("enabled", &self.enabled)
            .field("io_queues", &self.queues_in_use)
            .finish()
    }
}

/// The admin queue of a controller that is disabled.
fn admin_queue(
    function: &dyn Function,
    run: Run,
    capabilities: ControllerCapabilities,
    options: &Options,
) -> Result<QueuePair, ControllerError> {
    let max_transfer = options.max_transfer as usize;
    io_queues::new_queue_pair(function, run, capabilities, 0, ADMIN_ENTRIES, max_transfer, None)
}
