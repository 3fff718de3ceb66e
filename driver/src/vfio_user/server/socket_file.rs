//! The socket that clients find: made with care for what was there before, removed when its server ends.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fchmod, open};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use thiserror::Error;

use crate::emulated::EmulatedError;

/// Clients that may wait to be accepted, or turned away.
const BACKLOG: i32 = 16;

/// Why a device could not be served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The device cannot be made.
    #[error(transparent)]
    Device(#[from] EmulatedError),
    /// At the path is something else.
    #[error("{} is there and is no socket; give another path, or move it away", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Another process serves there.
    #[error("another process listens on {}; give another path, or end that process", .path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The path is too long for an address of a socket.
    #[error("the path {} is too long for a socket: it may have 107 bytes", .path.display())]
    PathTooLong {
        /// The socket.
        path: PathBuf,
    },
    /// The kernel refused something.
    #[error("cannot serve on {}: {source}", .path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A socket in the file system, removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// The file itself: what is at the path later may be another's, and as long as this is open no other file gets its
    /// number.
    file: File,
}

impl SocketFile {
    /// Makes the socket, with these permissions from its first moment on, and listens. It does not block.
    ///
    /// # Errors
    /// [`ServeError`]: something else is there, or the kernel refuses.
    pub fn bind(path: &Path, mode: u32) -> Result<(UnixListener, Self), ServeError> {
        let failed = |source: io::Error| ServeError::Socket { path: path.to_owned(), source };
        let address =
            SocketAddrUnix::new(path).map_err(|_| ServeError::PathTooLong { path: path.to_owned() })?;
        remove_dead(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| failed(error.into()))?;
        // Before it has a name: the file then never has more.
        fchmod(&socket, Mode::from_raw_mode(mode)).map_err(|error| failed(error.into()))?;
        bind(&socket, &address).map_err(|error| failed(error.into()))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let file = Self { path: path.to_owned(), file: file.into() };
        listen(&socket, BACKLOG).map_err(|error| failed(error.into()))?;
        Ok((UnixListener::from(socket), file))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let (there, here) = (fs::symlink_metadata(&self.path), self.file.metadata());
        let ours = there.is_ok_and(|there| here.is_ok_and(|here| identity(there) == identity(here)));
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a socket is left behind");
        }
    }
}

/// Removes a socket that nobody listens on.
fn remove_dead(path: &Path) -> Result<(), ServeError> {
    let failed = |source| ServeError::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ServeError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ServeError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        // Its queue is full, so somebody listens.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(ServeError::InUse { path: path.to_owned() })
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_socket_has_its_permissions_and_goes_with_its_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_listener, file) = SocketFile::bind(&path, 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, file) = SocketFile::bind(&path, 0o600).unwrap();
        assert!(matches!(SocketFile::bind(&path, 0o600), Err(ServeError::InUse { .. })));
        drop(listener);
        let (_listener, second) = SocketFile::bind(&path, 0o600).unwrap();
        drop(file);
        assert!(path.exists(), "a socket of another server stays");
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "precious").unwrap();
        let error = SocketFile::bind(&path, 0o600).unwrap_err();
        assert!(matches!(error, ServeError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let error = SocketFile::bind(folder.path(), 0o600).unwrap_err();
        assert!(matches!(error, ServeError::NotASocket { .. }), "{error}");
    }

    #[test]
    fn a_path_that_is_too_long_is_told() {
        let path = Path::new("/tmp").join("x".repeat(120));
        let error = SocketFile::bind(&path, 0o600).unwrap_err();
        assert!(matches!(error, ServeError::PathTooLong { .. }), "{error}");
    }
}
