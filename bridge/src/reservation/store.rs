//! Reservations that outlive the process: one file for each namespace, replaced as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gangway_spec::fabrics::Nqn;
use gangway_spec::reservation::ReservationType;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::state::{Held, Host, MOST_REGISTRANTS, Namespace};

/// What the files say of their format.
const VERSION: u32 = 1;

/// Why the files that keep reservations cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be made.
    #[error("cannot make the state directory {}: {source}; choose another with --state", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process keeps its reservations there.
    #[error("another process uses the state directory {}; give each server one of its own with --state", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read the reservations in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot keep reservations in {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Writing was interrupted.
    #[error("keeping reservations was interrupted: {0}")]
    Interrupted(String),
    /// A file says what cannot be.
    #[error(
        "{} does not say which hosts have reserved a namespace: {reason}. Serving it could let hosts write that must not: \
         restore the file, or remove it if no host relies on its reservations any more",
        path.display()
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Which namespace a file is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// MN of the drive.
    pub(crate) model: String,
    /// SN of the drive.
    pub(crate) serial: String,
    /// NSID on the drive.
    pub(crate) nsid: u32,
    /// NGUID, EUI64 and UUID, zeroes where the drive gives none: what tells it from a namespace that has its NSID later.
    #[serde(with = "hex")]
    pub(crate) nguid: u128,
    #[serde(with = "hex")]
    pub(crate) eui64: u128,
    /// Files that were written before it was kept have none.
    #[serde(with = "hex", default)]
    pub(crate) uuid: u128,
}

impl Identity {
    /// Whether what is kept under this identity is about the namespace with that one.
    fn is(&self, found: &Self) -> bool {
        let uuid = if self.uuid == 0 { found.uuid } else { self.uuid };
        Self { uuid, ..self.clone() } == *found
    }

    /// The name of its file. Different namespaces have different ones.
    fn file_name(&self) -> String {
        format!("{}.{}.{}.json", escaped(&self.model), escaped(&self.serial), self.nsid)
    }
}

/// `text` with nothing but letters, digits and `-`, and each other byte as `_` and two digits.
fn escaped(text: &str) -> String {
    let mut name = String::new();
    for byte in text.bytes() {
        match byte {
            b'-' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => name.push(byte.into()),
            _ => name.push_str(&format!("_{byte:02x}")),
        }
    }
    name
}

/// Numbers are written as a person compares them with what nvme-cli prints.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &(impl Into<u128> + Copy),
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{:x}", (*value).into()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<u128>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        u128::from_str_radix(&text, 16)
            .ok()
            .and_then(|value| T::try_from(value).ok())
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no number of the expected size")))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    namespace: Identity,
    generation: u32,
    registrants: Vec<Registrant>,
    reservation: Option<Reservation>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registrant {
    #[serde(with = "hex")]
    host: Host,
    #[serde(with = "hex")]
    key: u64,
    /// Its NQN. Files that were written before it was kept have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reservation {
    rtype: u8,
    /// Not there when all registrants hold it.
    holder: Option<Holder>,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Holder(#[serde(with = "hex")] Host);

impl Document {
    fn of(identity: &Identity, namespace: &Namespace) -> Self {
        Self {
            version: VERSION,
            namespace: identity.clone(),
            generation: namespace.generation,
            registrants: namespace
                .registrants()
                .map(|(host, key)| Registrant { host, key, name: namespace.name(host).map(Nqn::to_string) })
                .collect(),
            reservation: namespace
                .held
                .map(|held| Reservation { rtype: held.kind.value(), holder: held.holder.map(Holder) }),
        }
    }

    /// What it says, if that can be.
    fn namespace(self) -> Result<Namespace, String> {
        if self.version != VERSION {
            return Err(format!("it is of version {}, and this program knows {VERSION}", self.version));
        }
        let mut namespace = Namespace { generation: self.generation, persists: true, ..Namespace::default() };
        for Registrant { host, key, name } in self.registrants {
            if let Some(name) = name {
                let name = name.parse().map_err(|_| format!("{name:?} is no name of a host"))?;
                namespace.names.insert(host, name);
            }
            if key == 0 || namespace.registrants.insert(host, key).is_some() {
                return Err(format!("host {host:032x} is there twice, or without a key"));
            }
        }
        if namespace.registrants.len() > MOST_REGISTRANTS {
            return Err(format!("it has more than {MOST_REGISTRANTS} registrants"));
        }
        let Some(Reservation { rtype, holder }) = self.reservation else { return Ok(namespace) };
        let kind = ReservationType::from_value(rtype).ok_or(format!("there is no RTYPE {rtype}"))?;
        let holder = holder.map(|Holder(host)| host);
        let fits = match holder {
            Some(host) => !kind.is_all_registrants() && namespace.registrants.contains_key(&host),
            None => kind.is_all_registrants() && !namespace.registrants.is_empty(),
        };
        if !fits {
            return Err("nobody can hold its reservation".to_owned());
        }
        namespace.held = Some(Held { kind, holder });
        Ok(namespace)
    }
}

/// The directory with the files.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    /// How the names in a directory are made to last; tests have it fail.
    sync: fn(&Path) -> io::Result<()>,
    /// Locked, so that no other process writes there.
    _lock: Arc<File>,
}

/// Names of files are kept by their directory.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory and those above it that are not there, each to last.
fn make_directory(path: &Path, sync: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|one| !one.as_os_str().is_empty() && !one.is_dir()).collect();
    for made in missing.into_iter().rev() {
        // Several levels at once would not say which of them were made.
        match DirBuilder::new().mode(0o700).create(made) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !made.is_dir() => {
                return Err(error);
            }
            _ => {}
        }
        let above = made.parent().filter(|above| !above.as_os_str().is_empty());
        sync(above.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

impl Store {
    /// Uses `reservations` in the state directory, and makes both if need be.
    ///
    /// # Errors
    /// [`StateError::Directory`] and [`StateError::InUse`].
    pub(crate) fn open(state: &Path) -> Result<Self, StateError> {
        let directory = state.join("reservations");
        let failed = |source| StateError::Directory { path: directory.clone(), source };
        make_directory(&directory, sync_directory).map_err(failed)?;
        let lock = File::open(&directory).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _lock: Arc::new(lock), directory, sync: sync_directory }),
            Err(Errno::WOULDBLOCK) => Err(StateError::InUse { path: state.to_owned() }),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// What was kept of a namespace; nothing when its file is about another that had its NSID.
    ///
    /// # Errors
    /// [`StateError::Read`] and [`StateError::Content`].
    pub(crate) fn load(&self, identity: &Identity) -> Result<Option<Namespace>, StateError> {
        let path = self.directory.join(identity.file_name());
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Read { path, source }),
        };
        let document: Document = serde_json::from_slice(&text)
            .map_err(|error| StateError::Content { path: path.clone(), reason: error.to_string() })?;
        if !document.namespace.is(identity) {
            tracing::warn!(file = %path.display(), "reservations of a namespace that is there no more are forgotten");
            return Ok(None);
        }
        document.namespace().map(Some).map_err(|reason| StateError::Content { path, reason })
    }

    /// Keeps what is to be kept of a namespace. When it returns, a loss of power does not undo that.
    ///
    /// # Errors
    /// [`StateError::Write`]; then the file is what it was, as far as the disk lets it be: one that does not keep names any
    /// more may refuse that as well.
    pub(crate) fn save(&self, identity: &Identity, namespace: &Namespace) -> Result<(), StateError> {
        let path = self.directory.join(identity.file_name());
        let saved = if namespace.persists {
            text(&Document::of(identity, namespace)).and_then(|text| self.replace(&path, Some(&text)))
        } else {
            self.replace(&path, None)
        };
        saved.map_err(|source| StateError::Write { path, source })
    }

    /// Has a file be `new`, or not be there, for good; or be what it was.
    fn replace(&self, path: &Path, new: Option<&[u8]>) -> io::Result<()> {
        let old = match fs::read(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if old.is_none() && new.is_none() {
            return Ok(());
        }
        put(path, new)?;
        (self.sync)(&self.directory).inspect_err(|_| {
            // The host is told that nothing has changed, so nothing may have when the target starts again.
            if let Err(error) = put(path, old.as_deref()).and_then(|()| (self.sync)(&self.directory)) {
                tracing::error!(file = %path.display(), %error, "it may not be known after a loss of power which reservations were in force");
            }
        })
    }
}

fn text(document: &Document) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(document)?;
    text.push(b'\n');
    Ok(text)
}

/// Has a file be `text`, or not be there, until a loss of power at least. It is never there in part.
fn put(path: &Path, text: Option<&[u8]>) -> io::Result<()> {
    let Some(text) = text else { return fs::remove_file(path) };
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn identity() -> Identity {
        Identity { model: "Model 1/2".into(), serial: "S-1".into(), nsid: 3, nguid: 5, eui64: 0, uuid: 9 }
    }

    fn reserved(kind: ReservationType) -> Namespace {
        Namespace {
            generation: 9,
            persists: true,
            registrants: [(1, u64::MAX), (Host::MAX, 2)].into(),
            // That of the other is not known.
            names: [(1, "nqn.2014-08.org.example:host".parse().unwrap())].into(),
            held: Some(Held { kind, holder: (!kind.is_all_registrants()).then_some(Host::MAX) }),
        }
    }

    #[test]
    fn a_state_directory_is_used_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Store::open(folder.path()).unwrap();
        assert!(matches!(Store::open(folder.path()), Err(StateError::InUse { .. })));
        drop(first);
        assert!(Store::open(folder.path()).is_ok());
    }

    #[test]
    fn what_was_saved_is_loaded_by_whoever_comes_next() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("made/if/need/be");
        for kind in ReservationType::ALL {
            Store::open(&state).unwrap().save(&identity(), &reserved(kind)).unwrap();
            let loaded = Store::open(&state).unwrap().load(&identity()).unwrap();
            assert_eq!(loaded, Some(reserved(kind)));
        }
        let files: Vec<_> = fs::read_dir(state.join("reservations"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(files, ["Model_201_2f2.S-1.3.json"], "nothing else is left behind");
    }

    #[test]
    fn what_does_not_persist_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut namespace = reserved(ReservationType::WriteExclusive);
        store.save(&identity(), &namespace).unwrap();
        namespace.persists = false;
        store.save(&identity(), &namespace).unwrap();
        assert_eq!(store.load(&identity()).unwrap(), None);
        store.save(&identity(), &namespace).unwrap();
    }

    #[test]
    fn a_namespace_that_has_the_nsid_of_another_does_not_inherit_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.save(&identity(), &reserved(ReservationType::WriteExclusive)).unwrap();
        assert_eq!(store.load(&Identity { nguid: 6, ..identity() }).unwrap(), None);
        assert_eq!(store.load(&Identity { uuid: 8, ..identity() }).unwrap(), None);
        assert_eq!(store.load(&Identity { serial: "S-2".into(), ..identity() }).unwrap(), None);
    }

    #[test]
    fn a_file_from_before_uuids_were_kept_is_about_the_namespace_that_the_rest_of_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let namespace = reserved(ReservationType::WriteExclusive);
        store.save(&identity(), &namespace).unwrap();
        let path = folder.path().join("reservations").join(identity().file_name());
        let (text, uuid) = (fs::read_to_string(&path).unwrap(), ",\n    \"uuid\": \"9\"");
        assert!(text.contains(uuid), "{text}");
        fs::write(&path, text.replace(uuid, "")).unwrap();
        assert_eq!(store.load(&identity()).unwrap(), Some(namespace));
        assert_eq!(store.load(&Identity { nguid: 6, ..identity() }).unwrap(), None);
    }

    #[test]
    fn a_write_that_was_interrupted_leaves_what_was_there_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let namespace = reserved(ReservationType::ExclusiveAccess);
        store.save(&identity(), &namespace).unwrap();
        let path = folder.path().join("reservations").join(identity().file_name());
        fs::write(path.with_extension("new"), "{\"vers").unwrap();
        assert_eq!(store.load(&identity()).unwrap(), Some(namespace));
    }

    #[test]
    fn files_that_say_what_cannot_be_are_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let path = folder.path().join("reservations").join(identity().file_name());
        store.save(&identity(), &reserved(ReservationType::WriteExclusive)).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let holder = format!("\"{:x}\"", Host::MAX);
        let of = |from: &str, to: &str| {
            assert!(good.contains(from), "{from} in {good}");
            good.replace(from, to)
        };
        for bad in [
            String::new(),
            good[..good.len() / 2].to_owned(),
            of("\"version\": 1", "\"version\": 2"),
            of("\"rtype\": 1", "\"rtype\": 7"),
            of("\"rtype\": 1", "\"rtype\": 5"),
            of(&format!("\"holder\": {holder}"), "\"holder\": \"77\""),
            of(&format!("\"holder\": {holder}"), "\"holder\": null"),
            of("\"key\": \"2\"", "\"key\": \"0\""),
            of("\"key\": \"2\"", "\"key\": \"10000000000000000\""),
            of("nqn.2014-08.org.example:host", "a host"),
            of("\"host\": \"1\"", &format!("\"host\": {holder}")),
            of("\"generation\"", "\"something\""),
        ] {
            fs::write(&path, &bad).unwrap();
            let error = store.load(&identity()).unwrap_err();
            assert!(matches!(error, StateError::Content { .. }), "{error}: {bad}");
        }
        fs::write(&path, good).unwrap();
        assert!(store.load(&identity()).unwrap().is_some());
    }

    #[test]
    fn a_change_whose_name_does_not_last_leaves_what_was_there_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let failing = Store { sync: |_| Err(io::ErrorKind::StorageFull.into()), ..store.clone() };
        let shared = reserved(ReservationType::WriteExclusive);
        assert!(failing.save(&identity(), &shared).is_err());
        assert_eq!(store.load(&identity()).unwrap(), None, "there was no file");
        store.save(&identity(), &shared).unwrap();
        let other = reserved(ReservationType::ExclusiveAccess);
        for change in [other, Namespace { persists: false, ..shared.clone() }] {
            assert!(failing.save(&identity(), &change).is_err());
            assert_eq!(store.load(&identity()).unwrap().as_ref(), Some(&shared));
        }
    }

    #[test]
    fn each_directory_that_is_made_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let lasting = RefCell::new(Vec::new());
        let make = || {
            make_directory(&folder.path().join("a/b"), |path| {
                lasting.borrow_mut().push(path.to_owned());
                Ok(())
            })
        };
        make().unwrap();
        assert_eq!(*lasting.borrow(), [folder.path().to_owned(), folder.path().join("a")]);
        make().unwrap();
        assert_eq!(lasting.borrow().len(), 2, "nothing was made");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Store::open(&file).unwrap_err();
        assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    }
}
