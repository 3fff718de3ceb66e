//! What an operator says of limits.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use gangway_spec::fabrics::Nqn;

/// For how long a limit is saved up unless another time is given.
const BURST: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_BURST: Duration = Duration::from_secs(3600);

/// What there is in a second.
///
/// As text: `iops=50k,bandwidth=200MiB,burst=1s`, or `none`. Rates have the suffixes `k`, `M` and `G` (powers of 1000),
/// bandwidth `KiB`, `MiB` and `GiB` as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// I/O commands per second, whatever they do.
    pub iops: Option<NonZeroU64>,
    /// Bytes per second between host and drive, both ways together.
    pub bandwidth: Option<NonZeroU64>,
    /// For how long what is not used is saved up.
    pub burst: Duration,
}

impl Default for Limit {
    fn default() -> Self {
        Self::NONE
    }
}

impl Limit {
    /// No limit.
    pub const NONE: Self = Self { iops: None, bandwidth: None, burst: BURST };

    /// Whether it limits anything.
    pub fn is_any(&self) -> bool {
        self.iops.is_some() || self.bandwidth.is_some()
    }
}

/// What is wrong with the text of a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// It is not of the form.
    #[error("{0:?} is no limit: write iops=50k, bandwidth=200MiB, both with a comma between, or none")]
    Form(String),
    /// A number is none, or 0.
    #[error("{0:?} is no rate: write a number above 0 such as 500, 50k or 200MiB")]
    Rate(String),
    /// A time is none.
    #[error("{0:?} is no burst: write a time up to an hour, such as 100ms or 2s")]
    Burst(String),
    /// It is not said who is limited.
    #[error(
        "{0:?} says neither host nor namespace: write host=LIMIT, host:NQN=LIMIT, namespace=LIMIT or namespace:NSID=LIMIT"
    )]
    Subject(String),
}

impl FromStr for Limit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let mut limit = Self::NONE;
        if text == "none" {
            return Ok(limit);
        }
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("iops", rate)) => limit.iops = Some(number(rate)?),
                Some(("bandwidth", rate)) => limit.bandwidth = Some(number(rate)?),
                Some(("burst", time)) => limit.burst = duration(time)?,
                _ => return Err(LimitError::Form(text.to_owned())),
            }
        }
        if limit.is_any() { Ok(limit) } else { Err(LimitError::Form(text.to_owned())) }
    }
}

fn number(text: &str) -> Result<NonZeroU64, LimitError> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("k", 1000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("", 1),
    ];
    let parsed = UNITS.iter().find_map(|(suffix, factor)| {
        let number: u64 = text.strip_suffix(suffix)?.parse().ok()?;
        NonZeroU64::new(number.checked_mul(*factor)?)
    });
    parsed.ok_or_else(|| LimitError::Rate(text.to_owned()))
}

fn duration(text: &str) -> Result<Duration, LimitError> {
    let (number, unit): (_, fn(u64) -> Duration) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, Duration::from_millis),
        (None, Some(number)) => (number, Duration::from_secs),
        _ => return Err(LimitError::Burst(text.to_owned())),
    };
    let parsed = number.parse().ok().map(unit).filter(|time| *time <= LONGEST_BURST);
    parsed.ok_or_else(|| LimitError::Burst(text.to_owned()))
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_any() {
            return f.write_str("none");
        }
        let mut comma = "";
        for (name, rate) in [("iops", self.iops), ("bandwidth", self.bandwidth)] {
            if let Some(rate) = rate {
                write!(f, "{comma}{name}={rate}")?;
                comma = ",";
            }
        }
        if self.burst != BURST {
            write!(f, ",burst={}ms", self.burst.as_millis())?;
        }
        Ok(())
    }
}

/// Who is limited.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Every host that has no limit of its own, each by itself.
    EachHost,
    /// The host of this NQN.
    Host(String),
    /// Every namespace that has no limit of its own, each by itself, all hosts together.
    EachNamespace,
    /// The namespace of this NSID, as hosts know it.
    Namespace(u32),
}

impl FromStr for Subject {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let parsed = match text.split_once(':') {
            None if text == "host" => Some(Self::EachHost),
            None if text == "namespace" => Some(Self::EachNamespace),
            Some(("host", nqn)) => nqn.parse::<Nqn>().ok().map(|nqn| Self::Host(nqn.as_str().to_owned())),
            Some(("namespace", nsid)) => {
                nsid.parse().ok().filter(|nsid| (1..u32::MAX).contains(nsid)).map(Self::Namespace)
            }
            _ => None,
        };
        parsed.ok_or_else(|| LimitError::Subject(text.to_owned()))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EachHost => f.write_str("host"),
            Self::Host(nqn) => write!(f, "host:{nqn}"),
            Self::EachNamespace => f.write_str("namespace"),
            Self::Namespace(nsid) => write!(f, "namespace:{nsid}"),
        }
    }
}

/// The limits of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    rules: BTreeMap<Subject, Limit>,
}

impl Limits {
    /// Limits somebody, or says that somebody is not limited whatever others are.
    pub fn set(&mut self, subject: Subject, limit: Limit) {
        self.rules.insert(subject, limit);
    }

    /// What was said, in order.
    pub fn rules(&self) -> impl Iterator<Item = (&Subject, &Limit)> {
        self.rules.iter()
    }

    fn find(&self, one: &Subject, each: &Subject) -> Limit {
        self.rules.get(one).or_else(|| self.rules.get(each)).copied().unwrap_or_default()
    }

    /// What a host may have.
    pub fn of_host(&self, nqn: &str) -> Limit {
        self.find(&Subject::Host(nqn.to_owned()), &Subject::EachHost)
    }

    /// What a namespace gives.
    pub fn of_namespace(&self, nsid: u32) -> Limit {
        self.find(&Subject::Namespace(nsid), &Subject::EachNamespace)
    }

    /// Reads `SUBJECT=LIMIT`, such as `host:nqn.2014-08.org.example:a=iops=5k`.
    ///
    /// # Errors
    /// [`LimitError`].
    pub fn parse_rule(text: &str) -> Result<(Subject, Limit), LimitError> {
        // Names may have `=` in them, so what counts is where a limit begins that is one.
        let splits = text.match_indices('=').map(|(at, _)| (&text[..at], &text[at + 1..]));
        let mut problem = LimitError::Subject(text.to_owned());
        for (subject, limit) in splits {
            let Ok(subject) = subject.parse::<Subject>() else { continue };
            match limit.parse() {
                Ok(limit) => return Ok((subject, limit)),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_what_its_text_says_and_prints_as_text_that_says_the_same() {
        for (text, iops, bandwidth, burst) in [
            ("none", 0, 0, 100),
            ("iops=50k", 50_000, 0, 100),
            ("bandwidth=200MiB,iops=7", 7, 200 << 20, 100),
            ("bandwidth=1G,burst=2s", 0, 1_000_000_000, 2000),
            ("burst=0ms,iops=1", 1, 0, 0),
        ] {
            let limit: Limit = text.parse().unwrap();
            assert_eq!(limit.iops.map_or(0, NonZeroU64::get), iops, "{text}");
            assert_eq!(limit.bandwidth.map_or(0, NonZeroU64::get), bandwidth, "{text}");
            assert_eq!(limit.burst, Duration::from_millis(burst), "{text}");
            assert_eq!(limit.to_string().parse(), Ok(limit));
        }
        for text in
            ["", "iops", "iops=0", "iops=-1", "iops=1x", "burst=1s", "iops=1,burst=2h", "iops=99999999999G"]
        {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_says_for_whom_it_is() {
        let rule =
            |text| Limits::parse_rule(text).map(|(subject, limit)| (subject.to_string(), limit.to_string()));
        for (text, subject, limit) in [
            ("host=iops=5", "host", "iops=5"),
            ("namespace=none", "namespace", "none"),
            ("namespace:2=bandwidth=1KiB", "namespace:2", "bandwidth=1024"),
            (
                "host:nqn.2014-08.org.example:a=iops=5=iops=6",
                "host:nqn.2014-08.org.example:a=iops=5",
                "iops=6",
            ),
        ] {
            assert_eq!(rule(text), Ok((subject.to_owned(), limit.to_owned())));
        }
        for text in ["iops=5", "host", "host=", "host:x=iops=5", "namespace:0=iops=5", "host=iops=0"] {
            assert!(rule(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_of_its_own_goes_before_that_of_each() {
        let mut limits = Limits::default();
        for text in ["host=iops=5", "host:nqn.2014-08.org.example:a=none", "namespace:2=iops=7"] {
            let (subject, limit) = Limits::parse_rule(text).unwrap();
            limits.set(subject, limit);
        }
        assert!(!limits.of_host("nqn.2014-08.org.example:a").is_any());
        assert_eq!(limits.of_host("nqn.2014-08.org.example:b").to_string(), "iops=5");
        assert_eq!(limits.of_namespace(2).to_string(), "iops=7");
        assert!(!limits.of_namespace(1).is_any());
    }
}
