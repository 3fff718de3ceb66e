//! The emulated controller, served to drivers of other processes over a UNIX socket.
//!
//! One client at a time has the device; another one is turned away while it does. When a client leaves, in whatever way,
//! the device is reset and its memory unmapped, and the next one finds it as after power-on. Data stay.
//!
//! # How it runs
//!
//! On one thread, the one that calls [`Server::run`]. Doorbells are memory that the client writes to, since drivers
//! (SPDK's) demand that, and so nobody is woken when one is rung: they are looked at. Right after something happened that
//! is done without a pause; then in steps that grow to 2 ms, and not at all while the controller is
//! disabled. Messages are noticed at once.
//!
//! # What a client may do
//!
//! Whatever it likes to its device, and nothing to this process: messages that make no sense are refused with an
//! `errno`, or end the conversation when the stream of messages is broken; memory that is not mapped is a fault of the
//! device's IOMMU; a file that is shortened under the device ends the conversation.

mod config_space;
mod session;
mod socket_file;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use self::session::Session;
pub use self::socket_file::{ServeError, SocketFile};
use crate::emulated::{EmulatedConfig, ServedDevice};

/// How long doorbells are looked at without a pause after something happened.
const SPIN: Duration = Duration::from_micros(100);
/// How often messages are looked for meanwhile.
const MESSAGES: Duration = Duration::from_micros(20);
/// The pauses after that, twice as long each time.
const SHORTEST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

/// An emulated controller on a socket.
pub struct Server {
    device: ServedDevice,
    listener: UnixListener,
    socket: SocketFile,
    stop: Arc<OwnedFd>,
}

/// Ends a [`Server`] from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<OwnedFd>);

impl Stopper {
    /// Makes [`Server::run`] return soon, whatever its client does.
    pub fn stop(&self) {
        // An eventfd takes 2^64 of these before it refuses one.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Server {
    /// Makes the device and the socket at `path`, with the permissions `mode` (0600: its owner only). A socket that
    /// nobody listens on any more is replaced; anything else that is there stays, and is an error.
    ///
    /// # Errors
    /// [`ServeError`] says what is in the way.
    pub fn bind(path: &Path, mode: u32, config: EmulatedConfig) -> Result<Self, ServeError> {
        let device = ServedDevice::new(format!("{}", path.display()), config)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let stop =
            stop.map_err(|error| ServeError::Socket { path: path.to_owned(), source: error.into() })?;
        let (listener, socket) = SocketFile::bind(path, mode)?;
        Ok(Self { device, listener, socket, stop: Arc::new(stop) })
    }

    /// What ends [`run`](Self::run).
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.stop))
    }

    /// Serves one client after the other until it is stopped.
    ///
    /// # Errors
    /// No client can be waited for, or accepted, any more.
    pub fn run(&self) -> Result<(), ServeError> {
        let failed = |source| ServeError::Socket { path: self.socket.path().to_owned(), source };
        loop {
            if self.wait(None, None).map_err(failed)?.stop {
                return Ok(());
            }
            let Some(stream) = self.accept().map_err(failed)? else { continue };
            tracing::info!(socket = %self.socket.path().display(), "a client has come");
            let mut session = Session::new(stream, &self.device);
            let end = self.serve(&mut session);
            drop(session);
            self.device.release();
            match end {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    tracing::info!("the client has gone");
                }
                Err(error) => tracing::warn!(%error, "the client is sent away"),
            }
        }
    }

    /// Serves a client until the server is stopped.
    fn serve(&self, session: &mut Session<'_>) -> io::Result<()> {
        let mut pace = Pace::new();
        loop {
            let running = session.is_running();
            if running && session.turn()? {
                pace.quicken();
            }
            let Some(pause) = pace.next(running) else { continue };
            let ready = self.wait(Some(session), pause.as_ref())?;
            if ready.stop {
                return Ok(());
            }
            if ready.client {
                session.converse()?;
                pace.quicken();
            }
            if ready.newcomer {
                // The client may have left a moment before the newcomer came.
                session.converse()?;
                if let Some(stream) = self.accept()? {
                    tracing::warn!("another client was turned away: there is one already");
                    drop(stream);
                }
            }
        }
    }

    fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) => match error.raw_os_error() {
                // It has gone again, or there are no files left at present.
                Some(libc::EAGAIN | libc::ECONNABORTED | libc::EINTR | libc::EMFILE | libc::ENFILE) => {
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    /// Waits until something is to be done, for `pause` at most.
    fn wait(&self, session: Option<&Session<'_>>, pause: Option<&Duration>) -> io::Result<Ready> {
        let pause = pause.map(|pause| Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() });
        let client = session.map_or(self.listener.as_fd(), Session::socket);
        let mut files = [
            PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(client, PollFlags::IN),
        ];
        match poll(&mut files, pause.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let [stop, newcomer, client] = files.map(|file| !file.revents().is_empty());
        Ok(Ready { stop, newcomer, client: client && session.is_some() })
    }
}

/// What there is to do.
#[derive(Default)]
struct Ready {
    stop: bool,
    newcomer: bool,
    client: bool,
}

/// How long to wait between two looks at the doorbells.
struct Pace {
    last_event: Instant,
    last_messages: Instant,
    pause: Duration,
}

impl Pace {
    fn new() -> Self {
        let now = Instant::now();
        Self { last_event: now, last_messages: now, pause: SHORTEST_PAUSE }
    }

    /// Something happened.
    fn quicken(&mut self) {
        self.last_event = Instant::now();
        self.pause = SHORTEST_PAUSE;
    }

    /// How long to wait for messages now: `None` for not at all, `Some(None)` for as long as it takes.
    #[expect(clippy::option_option, reason = "the inner one is what a wait takes")]
    fn next(&mut self, running: bool) -> Option<Option<Duration>> {
        if !running {
            return Some(None);
        }
        let now = Instant::now();
        if now - self.last_event >= SPIN {
            let pause = self.pause;
            self.pause = (pause * 2).min(LONGEST_PAUSE);
            return Some(Some(pause));
        }
        if now - self.last_messages >= MESSAGES {
            self.last_messages = now;
            return Some(Some(Duration::ZERO));
        }
        std::hint::spin_loop();
        None
    }
}
