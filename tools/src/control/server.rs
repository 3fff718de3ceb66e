//! The server's end of the control socket.

use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use gangway_bridge::{Limit, Subject};
use gangway_driver::vfio_user::server::SocketFile;
use gangway_spec::fabrics::Nqn;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, UCred};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::report::Report;
use super::{LONGEST_REQUEST, Request, usual_path};
use crate::output;
use crate::serve::{Doing, InUse, Site, Wanted};

/// Clients at a time at most.
const CLIENTS: usize = 16;
/// How long a client may be silent.
const SILENCE: Duration = Duration::from_secs(300);
/// How often a client that waits hears what it waits for.
const PROGRESS: Duration = Duration::from_secs(1);

/// A control socket that listens. The file goes with it.
pub(crate) struct Listener {
    listener: UnixListener,
    _file: SocketFile,
}

impl Listener {
    /// Listens at `path`. Without one at the usual place, if that is possible: a server that cannot be asked serves all
    /// the same, as does the second of a user.
    ///
    /// # Errors
    /// The path was given, and cannot be listened at.
    pub(crate) fn open(path: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let usual = usual_path();
        match (path, Self::at(path.unwrap_or(&usual))) {
            (_, Ok(listener)) => Ok(Some(listener)),
            (Some(_), Err(error)) => Err(error),
            (None, Err(error)) => {
                tracing::info!(
                    "{error:#}; without --control, this server cannot be asked or changed while it runs"
                );
                Ok(None)
            }
        }
    }

    fn at(path: &Path) -> anyhow::Result<Self> {
        let (listener, file) =
            SocketFile::bind(path, 0o600).context("no control socket; choose another with --control")?;
        let listener = UnixListener::from_std(listener)
            .with_context(|| format!("cannot listen for control at {}", path.display()))?;
        Ok(Self { listener, _file: file })
    }

    /// Answers requests for ever.
    pub(crate) async fn serve(self, site: Arc<Site>) -> Infallible {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if clients.len() < CLIENTS => match accepted {
                    Ok((stream, _)) => drop(clients.spawn(answer_all(stream, Arc::clone(&site)))),
                    Err(error) => {
                        tracing::warn!(%error, "the control socket failed");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
                Some(_) = clients.join_next() => {}
            }
        }
    }
}

/// Answers the requests of one client.
async fn answer_all(stream: UnixStream, site: Arc<Site>) {
    let asker = Asker::of(&stream);
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut request = (&mut reader).take(LONGEST_REQUEST as u64);
        match tokio::time::timeout(SILENCE, request.read_until(b'\n', &mut line)).await {
            Ok(Ok(count)) if count > 0 && line.ends_with(b"\n") => {}
            Ok(Ok(LONGEST_REQUEST)) => {
                let text = format!("the request is too long: it may have {LONGEST_REQUEST} bytes");
                tell(&mut writer, &json!({ "Error": text })).await;
                return;
            }
            _ => return,
        }
        let (doing, what) = Doing::new();
        let request = serde_json::from_slice(&line).context("no request");
        // What else is asked for is done, whether or not anybody waits for it.
        let may_leave = matches!(request, Ok(Request::Add { .. }));
        let answer = async { answer(request?, &asker, &site, doing).await };
        let ends = (&mut reader, &mut writer);
        let Some(answer) = tell_meanwhile(ends, may_leave, what, answer).await else { return };
        let answer = answer.unwrap_or_else(|error| {
            let text = output::explain(&error);
            match error.is::<InUse>() {
                true => json!({ "Error": text, "InUse": true }),
                false => json!({ "Error": text }),
            }
        });
        if !tell(&mut writer, &answer).await {
            return;
        }
    }
}

/// Writes a line to a client. Whether it took it.
async fn tell(writer: &mut OwnedWriteHalf, line: &Value) -> bool {
    let line = format!("{line}\n");
    matches!(tokio::time::timeout(SILENCE, writer.write_all(line.as_bytes())).await, Ok(Ok(())))
}

/// Whether a client has closed its socket, and not only said all that it has to say.
fn is_gone(reader: &BufReader<OwnedReadHalf>) -> bool {
    let stream: &UnixStream = reader.get_ref().as_ref();
    let mut poll = [PollFd::new(stream, PollFlags::empty())];
    rustix::event::poll(&mut poll, Some(&Timespec::default())).is_ok()
        && poll[0].revents().contains(PollFlags::HUP)
}

/// Waits for what a client waits for, and tells it now and then what that is. `None` when the client has gone, which is
/// noticed at once if it `may_leave`.
async fn tell_meanwhile<T>(
    (reader, writer): (&mut BufReader<OwnedReadHalf>, &mut OwnedWriteHalf),
    may_leave: bool,
    what: watch::Receiver<String>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let begin = Instant::now();
    let mut next = tokio::time::interval_at(begin + PROGRESS, PROGRESS);
    let (mut work, mut silent) = (pin!(work), may_leave);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            // Its next request, or the end.
            () = async { drop(reader.fill_buf().await) }, if silent => {
                silent = false;
                if is_gone(reader) {
                    return None;
                }
            }
            _ = next.tick() => {
                let progress = format!("{} ({} s)", *what.borrow(), begin.elapsed().as_secs());
                if !tell(writer, &json!({ "Progress": progress })).await {
                    return None;
                }
            }
        }
    }
}

/// Who asks.
struct Asker {
    pid: Option<i32>,
    uid: Option<u32>,
}

impl Asker {
    fn of(stream: &UnixStream) -> Self {
        let credentials = stream.peer_cred().ok();
        let pid = credentials.as_ref().and_then(UCred::pid);
        Self { pid, uid: credentials.map(|who| who.uid()) }
    }
}

async fn answer(request: Request, asker: &Asker, site: &Arc<Site>, doing: Doing) -> anyhow::Result<Value> {
    if !matches!(request, Request::Status {}) {
        let (Asker { pid, uid }, request) = (asker, serde_json::to_string(&request)?);
        tracing::info!(target: "audit", pid, uid, request, "a change is asked for");
    }
    Ok(match request {
        Request::Status {} => serde_json::to_value(Report::from(site.target().status().await))?,
        Request::Limit { subject, limit, subsystem } => {
            let (subject, limit): (Subject, Limit) = (subject.parse()?, limit.parse()?);
            let subsystem = subsystem.map(|name| name.parse::<Nqn>()).transpose()?;
            match site.target().set_limit(subsystem.as_ref(), subject, limit).await {
                0 => bail!("there is no such export; `gangway status` names those that there are"),
                exports => json!({ "Exports": exports }),
            }
        }
        Request::Add { devices, terms, to: None, namespaces } if namespaces.is_empty() => {
            serde_json::to_value(site.add(Wanted { devices, terms: *terms }, doing).await?)?
        }
        Request::Add { to: None, .. } => bail!("it is not said to which subsystem namespaces are added"),
        Request::Add { devices, terms, to: Some(subsystem), namespaces } => {
            let wanted = Wanted { devices, terms: *terms };
            serde_json::to_value(site.add_to(subsystem.parse()?, namespaces, wanted, doing).await?)?
        }
        Request::Remove { names, disconnect } => {
            serde_json::to_value(site.remove(names, disconnect, doing).await?)?
        }
        Request::RemoveFrom { subsystem, namespaces, disconnect } => {
            serde_json::to_value(site.remove_from(subsystem.parse()?, namespaces, disconnect, doing).await?)?
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream as StdStream;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn only_its_user_can_open_the_socket_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let runtime = runtime();
        let _inside = runtime.enter();
        let first = Listener::at(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = Listener::at(&path).err().unwrap();
        assert!(format!("{refused:#}").contains("another process listens"), "{refused:#}");
        assert!(path.exists());
        drop(first);
        assert!(!path.exists());
        // As after a server that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listener::at(&path).unwrap());
    }

    #[test]
    fn a_file_that_is_no_socket_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, "precious").unwrap();
        let runtime = runtime();
        let _inside = runtime.enter();
        assert!(Listener::at(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_client_sees_exports_and_changes_their_limits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let asked = path.clone();
        let client = move || {
            let stream = StdStream::connect(asked).unwrap();
            let mut answers = std::io::BufReader::new(&stream);
            let mut ask = |request: &str| {
                (&stream).write_all(format!("{request}\n").as_bytes()).unwrap();
                let mut answer = String::new();
                answers.read_line(&mut answer).unwrap();
                serde_json::from_str::<Value>(&answer).unwrap()
            };
            let changed = ask(r#"{"Command":"limit","Subject":"namespace:1","Limit":"iops=7"}"#);
            let unknown = r#"{"Command":"limit","Subject":"host","Limit":"none","Subsystem":"nqn.2014-08.org.example:none"}"#;
            let refused =
                [unknown, r#"{"Command":"limit","Subject":"x","Limit":"none"}"#, "x", "{}"].map(&mut ask);
            (changed, refused, ask(r#"{"Command":"status"}"#))
        };
        let (changed, refused, status) = runtime().block_on(async {
            let listener = Listener::at(&path).unwrap();
            let (target, site) = crate::serve::tests::start(&["--device", "emulated:size=1M"]).await;
            let answers = tokio::select! {
                answers = tokio::task::spawn_blocking(client) => answers.unwrap(),
                never = listener.serve(site) => match never {},
            };
            target.shutdown().await;
            answers
        });
        assert_eq!(changed, json!({ "Exports": 1 }));
        assert!(refused.iter().all(|answer| answer["Error"].is_string()), "{refused:?}");
        assert_eq!(status["Exports"][0]["Limits"], json!(["namespace:1=iops=7"]));
        assert_eq!(status["Exports"][0]["Namespaces"][0]["NSID"], 1);
        assert_eq!(status["Drives"][0]["State"], "works");
    }

    #[test]
    fn a_client_hears_of_progress_and_what_it_no_longer_waits_for_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let (asked, file) = (path.clone(), folder.path().join("disk.img"));
        let client = move || {
            let ask = |device: &str| {
                let stream = StdStream::connect(&asked).unwrap();
                let request = json!({ "Command": "add", "Devices": [device] });
                (&stream).write_all(format!("{request}\n").as_bytes()).unwrap();
                std::io::BufReader::new(stream)
            };
            let line = |stream: &mut std::io::BufReader<StdStream>| {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                serde_json::from_str::<Value>(&line).unwrap()
            };
            let answer = |mut stream| loop {
                let line = line(&mut stream);
                if line["Progress"].is_null() {
                    return line;
                }
            };
            let drive = format!("emulated:size=1M,file={}", file.display());
            let mut stream = ask(&format!("{drive},fault=not-ready=3s"));
            let progress = line(&mut stream)["Progress"].as_str().unwrap().to_owned();
            assert!(progress.contains("disk.img") && progress.contains(" s)"), "{progress}");
            drop(stream);
            // Its file is free again when it was shut down.
            (0..200).any(|_| {
                std::thread::sleep(Duration::from_millis(50));
                answer(ask(&drive))["Drives"].is_array()
            })
        };
        let added = runtime().block_on(async {
            let listener = Listener::at(&path).unwrap();
            let (target, site) = crate::serve::tests::start(&["--device", "emulated:size=1M"]).await;
            let added = tokio::select! {
                added = tokio::task::spawn_blocking(client) => added.unwrap(),
                never = listener.serve(site) => match never {},
            };
            assert_eq!(target.handle().exports().len(), 2);
            target.shutdown().await;
            added
        });
        assert!(added);
    }

    #[test]
    fn a_client_that_goes_away_is_noticed_at_once_and_one_that_has_said_all_is_answered() {
        runtime().block_on(async {
            for (gone, leaves) in [(true, "closes its socket"), (false, "has said all")] {
                let (client, server) = UnixStream::pair().unwrap();
                let (reader, mut writer) = server.into_split();
                let (_doing, what) = Doing::new();
                let client = client.into_std().unwrap();
                client.shutdown(std::net::Shutdown::Write).unwrap();
                let kept = (!gone).then(|| client.try_clone().unwrap());
                drop(client);
                // Before there is any progress to tell of.
                let work = tokio::time::sleep(PROGRESS / 2);
                let ends = (&mut BufReader::new(reader), &mut writer);
                let waited = tell_meanwhile(ends, true, what, work).await;
                assert_eq!(waited.is_none(), gone, "it {leaves}");
                drop(kept);
            }
        });
    }

    #[test]
    fn a_request_that_is_too_long_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let asked = path.clone();
        let client = move || {
            let stream = StdStream::connect(asked).unwrap();
            (&stream).write_all(&vec![b' '; LONGEST_REQUEST]).unwrap();
            let mut answer = String::new();
            std::io::BufReader::new(&stream).read_line(&mut answer).unwrap();
            answer
        };
        let answer = runtime().block_on(async {
            let listener = Listener::at(&path).unwrap();
            let (target, site) = crate::serve::tests::start(&["--device", "emulated:size=1M"]).await;
            let answer = tokio::select! {
                answer = tokio::task::spawn_blocking(client) => answer.unwrap(),
                never = listener.serve(site) => match never {},
            };
            target.shutdown().await;
            answer
        });
        assert!(answer.contains("too long"), "{answer}");
    }

    #[test]
    fn requests_are_what_the_documentation_says() {
        let parse = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(parse(r#"{"Command":"status"}"#).unwrap(), Request::Status {});
        let limit = parse(r#"{"Command":"limit","Subject":"host","Limit":"none"}"#).unwrap();
        assert_eq!(limit, Request::Limit { subject: "host".into(), limit: "none".into(), subsystem: None });
        let add = r#"{"Command":"add","Devices":["pci:0000:03:00.0"],"Subsystem":"nqn.2014-08.org.example:db","Namespaces":["3=1/1"]}"#;
        let Request::Add { devices, to: Some(_), namespaces, .. } = parse(add).unwrap() else {
            panic!("{add}")
        };
        assert_eq!((devices.len(), namespaces[0].to_string()), (1, "3=1/1".to_owned()));
        let add = r#"{"Command":"add","Devices":["pci:0000:02:00.0"],"Terms":{"AllowHost":["nqn.2014-08.org.example:a"],"Limit":["host=iops=5k"],"ReadOnly":true}}"#;
        assert!(matches!(parse(add).unwrap(), Request::Add { to: None, .. }));
        for remove in [
            r#"{"Command":"remove","Names":["nqn.2014-08.org.example:backup"],"Disconnect":true}"#,
            r#"{"Command":"removeFrom","Subsystem":"nqn.2014-08.org.example:db","Namespaces":[3]}"#,
        ] {
            assert!(parse(remove).is_ok(), "{remove}");
        }
        let bad = r#"{"Command":"add","Devices":["nvme0"]}"#;
        for wrong in ["{}", "[]", r#"{"Command":"stop"}"#, r#"{"Command":"limit","Subject":"host"}"#, bad] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
