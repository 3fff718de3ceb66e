//! The processes that a benchmark starts, and ends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::device::Address;
use crate::perf::cpu;

/// How long a process may take until it listens.
const START: Duration = Duration::from_secs(20);

/// All that were started. They are killed when this is dropped, or when a signal ends the benchmark.
#[derive(Debug, Default)]
pub(super) struct Children {
    children: Arc<Mutex<Vec<Child>>>,
}

/// A target that listens.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) device: Address,
    pub(super) pid: u32,
}

impl Children {
    /// Kills the children when SIGINT or SIGTERM ends this process; only the first of the two goes by way of a
    /// terminal to them as well.
    pub(super) fn end_with_signals(&self) -> anyhow::Result<()> {
        let children = Arc::clone(&self.children);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let wait = async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return None;
            };
            tokio::select! {
                _ = interrupt.recv() => Some(130),
                _ = terminate.recv() => Some(143),
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            if let Some(code) = runtime.block_on(wait) {
                kill(&children);
                std::process::exit(code);
            }
        })?;
        Ok(())
    }

    /// Starts this program with other arguments on a CPU, and waits until it listens.
    ///
    /// # Errors
    /// It does not start, or ends, or does not listen in time; what it said is in the error.
    pub(super) fn start(&self, arguments: &[String], server_cpu: usize) -> anyhow::Result<Running> {
        let what = format!("gangway {}", arguments.join(" "));
        let program = std::env::current_exe().context("cannot find this program")?;
        // What a thread starts runs where the thread may.
        let here = crate::cpus::allowed()?.0;
        cpu::pin(&[server_cpu])?;
        let spawned = Command::new(program)
            .args(arguments)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        cpu::pin(&here)?;
        let mut child = spawned.with_context(|| format!("cannot start {what}"))?;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let pid = child.id();
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        let complaints = thread::spawn(move || {
            let mut text = String::new();
            // Whatever can be had of it.
            let _ = errors.map(|mut errors| errors.read_to_string(&mut text));
            text
        });
        let (tell, told) = mpsc::channel();
        let output = output.context("no standard output")?;
        thread::spawn(move || {
            // To the end, so that the child never finds it closed.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(device) = ready(&line) {
                    let _ = tell.send(device);
                }
            }
        });
        match told.recv_timeout(START) {
            Ok(device) => Ok(Running { device, pid }),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(anyhow!("{what} does not listen")),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let text = complaints.join().unwrap_or_default();
                Err(anyhow!("{what} has ended: {}", text.trim()))
            }
        }
    }
}

impl Children {
    /// Ends one of them.
    pub(super) fn stop(&self, running: &Running) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = children.iter().position(|child| child.id() == running.pid) {
            end(children.swap_remove(index));
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        kill(&self.children);
    }
}

/// The device of a line such as `Ready: NQN at ADDRESS (...)`.
fn ready(line: &str) -> Option<Address> {
    let (subsystem, rest) = line.strip_prefix("Ready: ")?.split_once(" at ")?;
    let address = rest.split_whitespace().next()?;
    format!("tcp:{address}/{subsystem}").parse().ok()
}

fn kill(children: &Mutex<Vec<Child>>) {
    children.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(end);
}

fn end(mut child: Child) {
    // One that has ended by itself cannot be killed, and is waited for all the same.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_target_that_listens_names_a_device() {
        for line in [
            "Ready: nqn.2014-08.org.example:a at 127.0.0.1:4420 (emulated:0, 1 GB)",
            "Ready: nqn.2014-08.org.example:a at 127.0.0.1:4420",
        ] {
            let device = ready(line).unwrap().to_string();
            assert_eq!(device, "tcp:127.0.0.1:4420/nqn.2014-08.org.example:a");
        }
        assert!(ready("  nvme connect -t tcp").is_none());
    }
}
