//! Runs the program.

use std::io::{BufRead, BufReader, Write};
use std::iter;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long something may take before it counts as never.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a run ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.text(), self.stderr))
    }

    /// The same, if it went well.
    #[track_caller]
    pub(crate) fn good(self) -> Self {
        assert_eq!(self.code, 0, "{} {}", self.text(), self.stderr);
        self
    }

    /// The same, if it ended with this code and said this.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, saying: &str) -> Self {
        assert_eq!(self.code, code, "{} {}", self.text(), self.stderr);
        assert!(self.stderr.contains(saying), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }
}

/// Runs `gangway COMMAND DEVICE ARGUMENTS` with these bytes as its standard input.
pub(crate) fn run_with(input: &[u8], command: &str, device: &str, arguments: &[&str]) -> Ended {
    let mut child = gangway()
        .args(command.split(' '))
        .arg(device)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who does not read its input has ended already.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn run(command: &str, device: &str, arguments: &[&str]) -> Ended {
    run_with(b"", command, device, arguments)
}

fn gangway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gangway"));
    command.env_remove("RUST_LOG");
    command
}

/// A folder for a test, with a drive in it.
pub(crate) struct Lab {
    directory: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The address of an emulated drive that keeps its data in this folder.
    pub(crate) fn drive(&self, options: &str) -> String {
        format!("emulated:{options},file={}", self.path("disk.img").display())
    }
}

/// A text for a command line.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `gangway serve`, until it is dropped.
pub(crate) struct Serve {
    child: Child,
    /// The address of what it exports.
    pub(crate) device: String,
    /// What it says on its standard error.
    said: Receiver<String>,
}

impl Serve {
    pub(crate) fn start(device: &str, options: &[&str]) -> Self {
        let mut child = gangway()
            .args(["serve", "--listen", "127.0.0.1:0", "--device", device])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.find_map(|line| line.ok().filter(|line| line.contains("nvme connect"))).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        let after = |flag: &str| words[words.iter().position(|word| *word == flag).unwrap() + 1];
        let device = format!("tcp:{}:{}/{}", after("-a"), after("-s"), after("-n"));
        // Whatever else it says is read, so that it never has to wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let errors = BufReader::new(child.stderr.take().unwrap()).lines();
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || errors.map_while(Result::ok).for_each(|line| drop(say.send(line))));
        Self { child, device, said }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it says this on its standard error.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        let said = iter::from_fn(|| self.said.recv_timeout(PATIENCE).ok()).find(|line| line.contains(text));
        assert!(said.is_some(), "it does not say {text:?}");
    }

    /// How it ends, and what it said that was not waited for.
    pub(crate) fn end(mut self) -> Ended {
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        let said: Vec<String> = self.said.iter().collect();
        Ended { code, stdout: Vec::new(), stderr: said.join("\n") }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
