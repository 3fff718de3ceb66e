//! The few things that change a machine. They stand behind a trait so that the tests can put a kernel of
//! their own there, one that fails on request.

use std::{
    env,
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use gangway_driver::{Controller, DmaDomain, controller::Options, vfio::VfioFunction};
use rustix::fs::{Mode, OFlags};

use super::owner::Ownership;
use crate::sysfs::PciAddress;

/// What binding needs of a machine.
pub(crate) trait Machine {
    /// Opens a whole disk exclusively; nobody can claim it or a partition of it until this is dropped.
    ///
    /// # Errors
    /// `ResourceBusy` when somebody has claimed it or a partition of it.
    fn claim(&mut self, node: &Path) -> io::Result<File>;
    /// Writes back what the page cache holds for a disk, and flushes the disk's own cache.
    fn flush(&mut self, node: &Path, claim: &File) -> io::Result<()>;
    /// Whether nobody has this VFIO group open. A group can be opened once only, so trying tells.
    fn group_is_free(&mut self, node: &Path) -> io::Result<bool>;
    /// Writes to an attribute in sysfs.
    fn write(&mut self, file: &Path, text: &str) -> io::Result<()>;
    /// Loads a module of the kernel.
    fn load(&mut self, module: &str) -> Result<(), ModuleError>;
    /// Writes a file so that it is there as a whole or not at all.
    fn save(&mut self, file: &Path, text: &str) -> io::Result<()>;
    /// Removes a file; it may be gone already.
    fn remove(&mut self, file: &Path) -> io::Result<()>;
    /// Who owns a file, and its permissions.
    fn ownership(&mut self, file: &Path) -> io::Result<Ownership>;
    /// Gives a file to others.
    fn own(&mut self, file: &Path, ownership: Ownership) -> io::Result<()>;
    /// The path by which this program can be started at boot by root, when nobody else can put another in its
    /// place.
    fn program(&mut self) -> Result<PathBuf, ProgramError>;
    /// The serial number of a drive that is bound to vfio-pci, asked of the drive itself.
    fn serial_number(&mut self, address: PciAddress) -> anyhow::Result<String>;
    /// Waits until no other command of ours is at work, for as long as the result lives.
    fn lock(&mut self, file: &Path) -> io::Result<File>;
    /// Leaves a line in the kernel's log, for what nobody is there to read.
    fn log(&mut self, text: &str);
    /// Whether this user may read and write a file.
    fn may_open(&mut self, file: &Path) -> bool;
    /// Lets time pass.
    fn pause(&mut self, time: Duration);
    /// Tells the user something at once.
    fn notice(&mut self, text: &str);
    /// Whether we have all rights, so that what we cannot see is hidden on purpose.
    fn is_root(&self) -> bool;
}

/// A module could not be loaded.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ModuleError {
    #[error(
        "the module '{module}' is needed and is not loaded, and there is no modprobe to load it: install kmod, \
         or use a kernel with {option}=y"
    )]
    NoModprobe { module: String, option: &'static str },
    #[error(
        "the module '{module}' cannot be loaded: {reason}. It comes with the kernel's modules package; the \
         kernel must be built with {option}"
    )]
    Failed { module: String, option: &'static str, reason: String },
}

/// This program is not where root should start it from.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "root would run {} at each boot, but {reason}; install the program where only root can change it \
     (`install {} /usr/local/bin/gangway`) and use that one",
    .program.display(), .program.display()
)]
pub(crate) struct ProgramError {
    pub(crate) program: PathBuf,
    pub(crate) reason: String,
}

/// The kernel's configuration option that a module stands for.
pub(crate) fn option_of(module: &str) -> &'static str {
    match module {
        "vfio-pci" => "CONFIG_VFIO_PCI",
        "vfio_iommu_type1" => "CONFIG_VFIO_IOMMU_TYPE1",
        "nvme" => "CONFIG_BLK_DEV_NVME",
        _ => "its driver",
    }
}

/// The machine we run on.
#[derive(Debug)]
pub(crate) struct ThisMachine;

impl Machine for ThisMachine {
    fn claim(&mut self, node: &Path) -> io::Result<File> {
        // Opened for reading only: closing a disk that was open for writing makes udev look at it again.
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(rustix::fs::open(node, flags, Mode::empty())?.into())
    }

    fn flush(&mut self, _node: &Path, claim: &File) -> io::Result<()> {
        claim.sync_all()
    }

    fn group_is_free(&mut self, node: &Path) -> io::Result<bool> {
        match rustix::fs::open(node, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::BUSY) => Ok(false),
            Err(rustix::io::Errno::NOENT) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self, file: &Path, text: &str) -> io::Result<()> {
        tracing::debug!("writing {text:?} to {}", file.display());
        // One write(2): an attribute takes what it gets at once.
        fs::OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
    }

    fn load(&mut self, module: &str) -> Result<(), ModuleError> {
        tracing::debug!("modprobe {module}");
        let failed = |reason: String| ModuleError::Failed {
            module: module.to_owned(),
            option: option_of(module),
            reason,
        };
        // sudo may leave the sbin directories out of PATH.
        for program in ["modprobe", "/sbin/modprobe", "/usr/sbin/modprobe"] {
            match Command::new(program).arg(module).stdin(Stdio::null()).output() {
                Ok(output) if output.status.success() => return Ok(()),
                Ok(output) => {
                    let text = String::from_utf8_lossy(&output.stderr);
                    let reason = text.lines().last().map(str::trim).filter(|line| !line.is_empty());
                    return Err(failed(
                        reason.map_or_else(|| format!("{program}: {}", output.status), str::to_owned),
                    ));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed(format!("{program}: {error}"))),
            }
        }
        Err(ModuleError::NoModprobe { module: module.to_owned(), option: option_of(module) })
    }

    fn save(&mut self, file: &Path, text: &str) -> io::Result<()> {
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = file.with_file_name(name);
        let mut written = File::create(&new)?;
        written.write_all(text.as_bytes())?;
        // Else a power failure may leave an empty file under the final name.
        written.sync_all()?;
        fs::rename(&new, file)
    }

    fn remove(&mut self, file: &Path) -> io::Result<()> {
        match fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn ownership(&mut self, file: &Path) -> io::Result<Ownership> {
        let metadata = fs::metadata(file)?;
        Ok(Ownership { user: metadata.uid(), group: metadata.gid(), mode: metadata.mode() & 0o7777 })
    }

    fn own(&mut self, file: &Path, ownership: Ownership) -> io::Result<()> {
        std::os::unix::fs::chown(file, Some(ownership.user), Some(ownership.group))?;
        fs::set_permissions(file, fs::Permissions::from_mode(ownership.mode))
    }

    fn program(&mut self) -> Result<PathBuf, ProgramError> {
        let program = env::current_exe().unwrap_or_else(|_| "gangway".into());
        match trusted(&program) {
            Ok(()) => Ok(program),
            Err(reason) => Err(ProgramError { program, reason }),
        }
    }

    fn serial_number(&mut self, address: PciAddress) -> anyhow::Result<String> {
        let function = VfioFunction::open(address.to_string().parse()?, &DmaDomain::new())?;
        let mut controller =
            Controller::start(function, Options { io_queues_wanted: 1, ..Options::default() })?;
        let serial = controller.identify().serial().trim().to_owned();
        // A drive that is not told of its shutdown counts it as a loss of power.
        controller.shutdown()?;
        Ok(serial)
    }

    fn lock(&mut self, file: &Path) -> io::Result<File> {
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        let lock = File::options().create(true).truncate(false).write(true).open(file)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(lock)
    }

    fn log(&mut self, text: &str) {
        eprintln!("{text}");
        // udev shows what its programs say only when it debugs.
        let line = format!("<4>gangway: {}", text.split_whitespace().collect::<Vec<_>>().join(" "));
        if let Ok(mut log) = File::options().write(true).open("/dev/kmsg") {
            let _ = log.write_all(line.as_bytes());
        }
    }

    fn may_open(&mut self, file: &Path) -> bool {
        rustix::fs::access(file, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_ok()
    }

    fn pause(&mut self, time: Duration) {
        thread::sleep(time);
    }

    fn notice(&mut self, text: &str) {
        eprintln!("{text}");
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }
}

/// Whether nobody but root can change what a path leads to; if not, why.
fn trusted(program: &Path) -> Result<(), String> {
    let text = program.to_string_lossy();
    // udev would take these as its own, or as the end of the name.
    if let Some(c) = text.chars().find(|c| c.is_whitespace() || c.is_control() || "\"'$%\\".contains(*c)) {
        return Err(format!("its path has the character {c:?}"));
    }
    for path in program.ancestors() {
        let metadata = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        if metadata.uid() != 0 {
            return Err(format!("{} does not belong to root", path.display()));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(format!("others than root may write to {}", path.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_file_replaces_the_old_one_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b/0000:01:00.0");
        ThisMachine.save(&file, "one").unwrap();
        ThisMachine.save(&file, "two").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        ThisMachine.remove(&file).unwrap();
        ThisMachine.remove(&file).unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn an_attribute_that_does_not_exist_is_not_created() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("driver_override");
        assert_eq!(ThisMachine.write(&file, "x").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!file.exists());
    }

    #[test]
    fn a_program_that_others_could_replace_is_not_run_by_root() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("gangway");
        fs::write(&program, "").unwrap();
        // /tmp is open to everybody.
        assert!(trusted(&program).is_err());
        assert!(trusted(Path::new("/usr/bin/with space")).unwrap_err().contains("' '"));
        assert!(trusted(Path::new("/usr/bin/env")).is_ok());
    }

    #[test]
    fn a_lock_is_given_to_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gangway/lock");
        let lock = ThisMachine.lock(&file).unwrap();
        let second = File::open(&file).unwrap();
        let attempt = || rustix::fs::flock(&second, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        assert!(attempt().is_err());
        drop(lock);
        assert!(attempt().is_ok());
    }
}
