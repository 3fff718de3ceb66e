//! Where in memory the data of a command is, as its handling asks for.

use gangway_driver::dma::{BufferPool, DmaBuffer};
use gangway_driver::queue::guarded_start;

use crate::admission::{Admitted, Handling};

/// A buffer for the data of a command. `None` when there is none.
#[inline]
pub(super) fn take(pool: &mut BufferPool, admitted: &Admitted) -> Option<DmaBuffer> {
    match admitted.handling {
        Handling::Plain | Handling::List | Handling::Across => pool.take(admitted.length as usize),
        Handling::Cleared | Handling::Guarded => cleared(pool, admitted),
    }
}

/// A buffer that shows nothing of what it held before, neither to the host nor to a drive that reads too far.
#[cold]
fn cleared(pool: &mut BufferPool, admitted: &Admitted) -> Option<DmaBuffer> {
    let (length, room) = (admitted.length as usize, room(admitted));
    let mut buffer = pool.take(room)?;
    buffer.set_len(buffer.capacity());
    buffer.fill(0);
    buffer.set_len(length);
    buffer.begin_at(room - length);
    Some(buffer)
}

/// Bytes of memory that a command needs: its data, and what has to be before it.
#[inline]
pub(super) fn room(admitted: &Admitted) -> usize {
    let length = admitted.length as usize;
    match admitted.handling {
        Handling::Guarded => length + guarded_start(length).unwrap_or(0),
        _ => length,
    }
}
