//! A target in a process of its own, looked at from outside.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use gangway_fabric::host::client::{AdminQueue, Options};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::heap::Allocated;
use crate::{identity, subsystem};

/// Lets this process, and those that it starts, have `count` files open, and more where that is allowed.
///
/// # Panics
/// When it may not have as many.
pub fn allow_files(count: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.is_none_or(|most| most >= count);
    assert!(enough, "this test needs {count} open files, and `ulimit -Hn` says {:?}", limit.maximum);
    if limit.current.is_some_and(|most| most < count) {
        limit.current = limit.maximum;
        if setrlimit(Resource::Nofile, limit).is_err() {
            // The hard limit may be above what the kernel allows today.
            limit.current = Some(count);
            setrlimit(Resource::Nofile, limit).expect("a limit below the hard one");
        }
    }
}

/// A target that runs until this is dropped.
pub struct TargetProcess {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    /// Its standard input and output; none once it shall end.
    talk: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

impl TargetProcess {
    /// Starts `program`, which is `gangway-test-target`, with what it shall do when there is nothing to do.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(program: &str, poll: &str) -> Self {
        Self::with(program, &[poll])
    }

    /// The same with all its arguments.
    ///
    /// # Panics
    /// When it does not start.
    pub fn with(program: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the target's process");
        let mut line = String::new();
        let input = child.stdin.take().expect("its standard input");
        let mut output = BufReader::new(child.stdout.take().expect("its standard output"));
        output.read_line(&mut line).expect("the target's address");
        let address = line.trim().parse().expect("the target's address");
        Self { address, child, talk: Mutex::new(Some((input, output))) }
    }

    /// Connects host `number` and enables its controller.
    ///
    /// # Panics
    /// When that fails.
    pub fn host(&self, number: u8, options: &Options) -> AdminQueue {
        let mut admin = AdminQueue::connect(self.address, &subsystem(0), &identity(number), options)
            .expect("a connection");
        admin.enable().expect("the controller gets ready");
        admin
    }

    /// The threads of its reactors.
    ///
    /// # Panics
    /// When it has ended.
    pub fn reactors(&self) -> Vec<i32> {
        let tasks = fs::read_dir(self.folder().join("task")).expect("the target's threads");
        let name = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks
            .filter_map(Result::ok)
            .filter(|task| name(task).starts_with("reactor-"))
            .filter_map(|task| task.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// Bytes of its memory that are in RAM, but for what it has of files: its program.
    ///
    /// # Panics
    /// When it has ended.
    pub fn resident(&self) -> u64 {
        let text = fs::read_to_string(self.folder().join("status")).expect("the target's status");
        let kib = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.trim().trim_end_matches("kB").trim().parse().expect("a number of kB")
        };
        (kib("RssAnon:") + kib("RssShmem:")) << 10
    }

    /// What it has allocated.
    ///
    /// # Panics
    /// When it has ended.
    pub fn allocated(&self) -> Allocated {
        let mut talk = self.talk.lock().expect("no other question failed");
        let (input, output) = talk.as_mut().expect("it runs");
        input.write_all(b"\n").expect("a question to the target");
        let mut line = String::new();
        output.read_line(&mut line).expect("the target's answer");
        line.parse().expect("what the target has allocated")
    }

    /// Waits until it has ended by itself, and ends it when that takes too long.
    fn end(&mut self) -> io::Result<ExitStatus> {
        const PATIENCE: Duration = Duration::from_secs(30);
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.child.kill()?;
        self.child.wait()?;
        Err(io::Error::other(format!("it did not end within {} s and was killed", PATIENCE.as_secs())))
    }

    fn folder(&self) -> PathBuf {
        format!("/proc/{}", self.child.id()).into()
    }
}

impl Drop for TargetProcess {
    fn drop(&mut self) {
        // The end of its standard input ends it.
        let talk = self.talk.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // It may still say something.
        let _output = talk.map(|(_, output)| output);
        let ended = self.end();
        if !thread::panicking() {
            let success = ended.as_ref().is_ok_and(ExitStatus::success);
            assert!(success, "the target failed: {ended:?}");
        }
    }
}
