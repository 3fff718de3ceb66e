//! What the NVMe specifications define, as types: commands, completions, status values, Identify data,
//! log pages, features, controller registers and the structures of NVMe over Fabrics.
//!
//! Nothing in here does I/O. Every structure that crosses a wire or a queue has the layout of the
//! specification, little-endian integers in its type and no alignment, so it can be read from and written to
//! any bytes with `zerocopy`. Values that a later specification may define are ordinary numbers with named
//! constants: an unknown one is unusual, never undefined.
//!
//! Section numbers refer to the NVM Express Base Specification 2.0 ("NVMe Base 2.0") unless they say otherwise.
//!
//! ```
//! use gangway_spec::{Status, SubmissionQueueEntry, nvm, opcode};
//!
//! let mut read = SubmissionQueueEntry::new(opcode::nvm::READ);
//! read.nsid.set(1);
//! nvm::set_slba(&mut read, 0x1000);
//! nvm::set_nlb(&mut read, 8);
//! assert_eq!((nvm::slba(&read), nvm::nlb(&read)), (0x1000, 8));
//! assert_eq!(Status::LBA_OUT_OF_RANGE.to_string(), "LBA Out of Range (SCT 0h SC 80h)");
//! ```

mod text;

pub mod aen;
pub mod command;
pub mod completion;
pub mod discovery;
pub mod fabrics;
pub mod feature;
pub mod identify;
pub mod log;
pub mod nvm;
pub mod opcode;
pub mod registers;
pub mod reservation;
pub mod status;
pub mod zns;

pub use command::{SglDescriptor, SubmissionQueueEntry, TransferDirection};
pub use completion::CompletionQueueEntry;
pub use identify::{IdentifyController, IdentifyNamespace};
pub use opcode::{admin_opcode_name, nvm_opcode_name};
pub use status::Status;
