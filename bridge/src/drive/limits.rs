//! How long each step of recovery may take, in one place.
//!
//! | step | what | bound |
//! |---|---|---|
//! | | an I/O command is overdue | [`ReactorConfig::io_timeout`](crate::ReactorConfig), whatever its opcode: hosts wait no longer either |
//! | | an admin command is overdue | by opcode ([`TimeLimits`](gangway_driver::controller::TimeLimits)), whoever asks for it |
//! | 1 | Abort of that command; as many at a time as the drive takes (ACL) | [`ABORT`] to be asked, where others come first, and [`ABORT`] from then on |
//! | 2 | its queue pair alone is deleted and made anew | [`FREEZE`], 10 s for each of the two deletions, the driver's `admin_timeout` for each of the two creations |
//! | 3 | reset of the controller | [`FREEZE`] for all reactors, then what the drive states (CAP.TO, CRTO) to stop and to start, `admin_timeout` for each of the commands of the start |
//! | 4 | step 3 again, [`RESETS`] times in all: by a function-level reset, then by one of the NVM subsystem, where the drive has them | [`PAUSE`] more before each |
//! | 5 | the drive is given up | at once |
//!
//! A step ends as soon as it worked. Step 1 is left out when the queue itself went wrong, or the controller says that it
//! has failed (CSTS.CFS), and so is step 2. Step 2 is left out when Abort was not answered, since the commands that it
//! consists of would not be either, and for commands of the admin queue.
//!
//! Commands that the drive had are answered when it is known that it has them no longer: after step 1, 2, or the first
//! half of step 3. Those that wait in software queues wait until the ladder has ended.

use std::time::Duration;

/// How long the drive may take to end a command that it was asked to abort.
pub(super) const ABORT: Duration = Duration::from_secs(2);
/// How long a reactor may take to give a queue pair back.
pub(super) const FREEZE: Duration = Duration::from_secs(5);
/// How often a reset is tried before the drive is given up.
pub(super) const RESETS: u32 = 3;
/// How long the drive is left alone before it is reset once more.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// How long commands to a drive that was removed are held, in case it comes back at once with its power on: after that they
/// are answered with an error.
pub(super) const HOLD: Duration = Duration::from_secs(10);
/// A drive that was removed is looked for after this time, and each time after one half more, up to [`LONGEST_LOOK`].
pub(super) const FIRST_LOOK: Duration = Duration::from_millis(200);
/// See [`FIRST_LOOK`].
pub(super) const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// How often the controller is asked whether it has failed, while nothing else wakes its manager.
pub(super) const HEALTH: Duration = Duration::from_secs(2);
/// How often the admin queue is looked at while commands are outstanding, at first; half as often each time, up to
/// [`LONGEST_NAP`].
pub(super) const SHORTEST_NAP: Duration = Duration::from_micros(100);
/// See [`SHORTEST_NAP`].
pub(super) const LONGEST_NAP: Duration = Duration::from_millis(2);
/// How often the time limits of admin commands are looked at.
pub(super) const WATCH: Duration = Duration::from_millis(100);
/// How long reactors may take to put a change of namespaces in force.
pub(super) const PUBLISH: Duration = Duration::from_secs(5);
