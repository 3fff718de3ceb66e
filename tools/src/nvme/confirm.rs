//! Questions before something is lost.

use std::io::{self, BufRead, IsTerminal, Write};

use super::args::Consent;
use crate::output;

impl Consent {
    /// Whether to go ahead with what has these consequences. Says why not, if not.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub(crate) fn asked(self, consequences: &str) -> anyhow::Result<bool> {
        if self.yes {
            return Ok(true);
        }
        let consequences = output::printable(consequences);
        if !io::stdin().is_terminal() {
            eprintln!("error: {consequences}. Say --yes if that is meant");
            return Ok(false);
        }
        eprint!("{consequences}. Go on? [y/N] ");
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        let agreed = matches!(answer.trim(), "y" | "Y" | "yes");
        if !agreed {
            eprintln!("Nothing was done.");
        }
        Ok(agreed)
    }
}
