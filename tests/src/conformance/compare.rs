//! Comparing two reports.

use std::collections::BTreeMap;
use std::fmt;

/// A difference that is known.
struct Known<'a> {
    /// The case; with `*` at its end, all that begin so.
    case: &'a str,
    /// How often it was met.
    met: usize,
}

impl Known<'_> {
    fn covers(&self, case: &str) -> bool {
        match self.case.strip_suffix('*') {
            Some(beginning) => case.starts_with(beginning),
            None => case == self.case,
        }
    }
}

/// What comparing two reports has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Cases in either report.
    pub cases: usize,
    /// Known differences that were met.
    pub known: usize,
    /// Differences that are not listed: case, first answer, second answer.
    pub unknown: Vec<(String, String, String)>,
    /// Listed differences that were not met.
    pub gone: Vec<String>,
}

impl Comparison {
    /// Whether the reports differ as they are known to, and not otherwise.
    pub fn is_as_expected(&self) -> bool {
        self.unknown.is_empty() && self.gone.is_empty()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (case, first, second) in &self.unknown {
            writeln!(f, "{case}:\n    first:  {first}\n    second: {second}")?;
        }
        for case in &self.gone {
            writeln!(f, "listed, but no difference any more: {case}")?;
        }
        let (cases, known, unknown) = (self.cases, self.known, self.unknown.len());
        write!(f, "{cases} cases, {known} known differences, {unknown} others, {} gone", self.gone.len())
    }
}

/// Compares reports of two drives of the shape `shape`. In `known`, a line `[SHAPE...]` begins the differences of these
/// shapes; each is `CASE = REASON`; a case may end in `*`; lines that begin with `#` say more.
pub fn compare(shape: &str, first: &str, second: &str, known: &str) -> Comparison {
    let mut listed: Vec<Known<'_>> = Vec::new();
    let mut applies = false;
    for line in known.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(shapes) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            applies = shapes.split_whitespace().any(|name| name == shape);
        } else if let (true, Some((case, _reason))) = (applies, line.split_once(" = ")) {
            listed.push(Known { case: case.trim(), met: 0 });
        }
    }
    let (first, second) = (answers(first), answers(second));
    let mut result = Comparison::default();
    let mut cases: Vec<&str> = first.keys().chain(second.keys()).copied().collect();
    cases.sort_unstable();
    cases.dedup();
    for case in cases {
        result.cases += 1;
        let answer =
            |report: &BTreeMap<&str, &str>| report.get(case).copied().unwrap_or("(not asked)").to_owned();
        let (one, other) = (answer(&first), answer(&second));
        if one == other {
            continue;
        }
        match listed.iter_mut().find(|known| known.covers(case)) {
            Some(known) => {
                known.met += 1;
                result.known += 1;
            }
            None => result.unknown.push((case.to_owned(), one, other)),
        }
    }
    result.gone = listed.iter().filter(|known| known.met == 0).map(|known| known.case.to_owned()).collect();
    result
}

fn answers(report: &str) -> BTreeMap<&str, &str> {
    report.lines().filter_map(|line| line.rsplit_once(": ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = "# why\n[a b]\nx one = because\ny * = all of them\n[b]\nz = another\n";

    #[test]
    fn what_is_listed_may_differ_and_nothing_else() {
        let found =
            compare("a", "x one: 1\ny p: 1\ny q: 2\nw: 5\n", "x one: 2\ny p: 1\ny q: 3\nw: 5\n", KNOWN);
        assert!(found.is_as_expected(), "{found}");
        assert_eq!((found.cases, found.known), (4, 2));
        let found = compare("a", "x one: 1\nz: 1\ny a: 1", "x one: 2\nz: 2\ny a: 2", KNOWN);
        assert_eq!(found.unknown, [("z".to_owned(), "1".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn a_listed_difference_that_is_gone_fails() {
        let found = compare("a", "x one: 1\ny p: 1\n", "x one: 1\ny p: 2\n", KNOWN);
        assert_eq!(found.gone, ["x one"]);
        assert!(!found.is_as_expected());
    }

    #[test]
    fn a_case_that_one_drive_was_not_asked_is_a_difference() {
        let found = compare("c", "q: 1\n", "", KNOWN);
        assert_eq!(found.unknown, [("q".to_owned(), "1".to_owned(), "(not asked)".to_owned())]);
    }
}
