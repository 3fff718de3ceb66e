//! Long work: how far it is, and whether somebody wants it to end.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often the line on a terminal is written anew, and how often a line is written where there is none.
const ON_TERMINAL: Duration = Duration::from_millis(200);
const IN_LOG: Duration = Duration::from_secs(30);

/// Says on standard error how far something is: one line that changes on a terminal, else a line now and then. What is
/// done within a second is not worth a line.
pub(super) struct Progress {
    what: String,
    start: Instant,
    last: Option<Instant>,
    terminal: bool,
    shown: bool,
}

impl Progress {
    pub(super) fn new(what: impl Into<String>) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { what: what.into(), start: Instant::now(), last: None, terminal, shown: false }
    }

    /// `done` of `total`, whatever they count; a total of 0 is one that is not known.
    pub(super) fn at(&mut self, done: u64, total: u64) {
        let interval = if self.terminal { ON_TERMINAL } else { IN_LOG };
        let since = self.last.unwrap_or(self.start).elapsed();
        if since < interval || self.start.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.last = Some(Instant::now());
        let far = match u128::from(done) * 100 {
            _ if total == 0 => String::new(),
            scaled => format!(" {} %,", scaled / u128::from(total)),
        };
        let line = format!("{}:{far} {} s", self.what, self.start.elapsed().as_secs());
        let mut err = io::stderr().lock();
        // Nothing depends on whether somebody sees it.
        let _ = if self.terminal { write!(err, "\r{line}\x1b[K") } else { writeln!(err, "{line}") };
        let _ = err.flush();
        self.shown = true;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown && self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// Counts the times that somebody pressed Ctrl-C since this was made. Without it, Ctrl-C ends the program as ever.
#[derive(Clone, Debug)]
pub(super) struct Interrupts(Arc<AtomicUsize>);

impl Interrupts {
    /// Starts to count.
    ///
    /// # Errors
    /// The thread that waits for the signal cannot be made.
    pub(super) fn watch() -> io::Result<Self> {
        let count = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = {
            let _inside = runtime.enter();
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?
        };
        let counted = Arc::clone(&count);
        thread::Builder::new().name("interrupts".into()).spawn(move || {
            while runtime.block_on(signals.recv()).is_some() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        Ok(Self(count))
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
