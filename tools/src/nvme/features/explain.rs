//! What the values of features mean (NVMe Base 2.0, 5.27.1).

use gangway_spec::feature::{fid, queue_counts, select};
use gangway_spec::identify::Oaes;

/// What can be done with a feature.
pub(super) fn capabilities(value: u32) -> Vec<String> {
    let can =
        |bit: u32, yes: &str, no: &str| format!("  Feature is {}", if value & bit != 0 { yes } else { no });
    vec![
        can(select::SUPPORTED_SAVEABLE, "saveable", "not saveable"),
        can(select::SUPPORTED_NAMESPACE_SPECIFIC, "namespace specific", "not namespace specific"),
        can(select::SUPPORTED_CHANGEABLE, "changeable", "not changeable"),
    ]
}

/// The fields of a feature's value; nothing for features that are not known here.
pub(super) fn value(feature: u8, value: u32, data: &[u8]) -> Vec<String> {
    fields(feature, value, data).into_iter().map(|(name, text)| format!("  {name}: {text}")).collect()
}

fn fields(feature: u8, value: u32, data: &[u8]) -> Vec<(&'static str, String)> {
    let on = |bit: u32| if value >> bit & 1 == 1 { "enabled" } else { "disabled" }.to_owned();
    let bits = |low: u32, width: u32| value >> low & ((1 << width) - 1);
    match feature {
        fid::ARBITRATION => vec![
            ("High Priority Weight (HPW)", (bits(24, 8) + 1).to_string()),
            ("Medium Priority Weight (MPW)", (bits(16, 8) + 1).to_string()),
            ("Low Priority Weight (LPW)", (bits(8, 8) + 1).to_string()),
            (
                "Arbitration Burst (AB)",
                match bits(0, 3) {
                    7 => "no limit".to_owned(),
                    power => (1 << power).to_string(),
                },
            ),
        ],
        fid::POWER_MANAGEMENT => {
            vec![("Workload Hint (WH)", bits(5, 3).to_string()), ("Power State (PS)", bits(0, 5).to_string())]
        }
        fid::TEMPERATURE_THRESHOLD => vec![
            (
                "Threshold Type (THSEL)",
                match bits(20, 2) {
                    0 => "over".to_owned(),
                    1 => "under".to_owned(),
                    other => other.to_string(),
                },
            ),
            (
                "Sensor (TMPSEL)",
                match bits(16, 4) {
                    0 => "composite".to_owned(),
                    15 => "all".to_owned(),
                    sensor => format!("sensor {sensor}"),
                },
            ),
            ("Threshold (TMPTH)", kelvin(bits(0, 16))),
        ],
        fid::ERROR_RECOVERY => vec![
            ("Deallocated or Unwritten Logical Block Error (DULBE)", on(16)),
            ("Time Limited Error Recovery (TLER)", format!("{} ms", bits(0, 16) * 100)),
        ],
        fid::VOLATILE_WRITE_CACHE => vec![("Volatile Write Cache Enable (WCE)", on(0))],
        fid::NUMBER_OF_QUEUES => {
            let (submission, completion) = queue_counts(value);
            vec![
                ("I/O Completion Queues Allocated (NCQA)", completion.to_string()),
                ("I/O Submission Queues Allocated (NSQA)", submission.to_string()),
            ]
        }
        fid::INTERRUPT_COALESCING => vec![
            ("Aggregation Time (TIME)", format!("{} us", bits(8, 8) * 100)),
            ("Aggregation Threshold (THR)", (bits(0, 8) + 1).to_string()),
        ],
        fid::INTERRUPT_VECTOR_CONFIGURATION => vec![
            ("Coalescing Disable (CD)", (bits(16, 1) == 1).to_string()),
            ("Interrupt Vector (IV)", bits(0, 16).to_string()),
        ],
        fid::WRITE_ATOMICITY => vec![("Disable Normal (DN)", (bits(0, 1) == 1).to_string())],
        fid::ASYNC_EVENT_CONFIGURATION => {
            let notices = Oaes::from_bits_retain(value & !0xff).iter_names();
            let names: Vec<_> = notices.map(|(name, _)| name.to_lowercase().replace('_', " ")).collect();
            vec![
                ("SMART / Health Critical Warnings", format!("{:#04x}", bits(0, 8))),
                ("Notices", if names.is_empty() { "none".to_owned() } else { names.join(", ") }),
            ]
        }
        fid::APST => vec![("Autonomous Power State Transition Enable (APSTE)", on(0))],
        fid::HOST_MEMORY_BUFFER => vec![("Enable Host Memory (EHM)", on(0))],
        fid::TIMESTAMP => match data.first_chunk::<8>() {
            // 48 bits of milliseconds since 1970, or since the last reset, as the attributes say.
            Some(&[a, b, c, d, e, f, attributes, _]) => vec![
                ("Timestamp", format!("{} ms", u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))),
                (
                    "Origin",
                    match attributes >> 1 & 7 {
                        0 => "the last reset".to_owned(),
                        1 => "set by a host, since 1970".to_owned(),
                        other => other.to_string(),
                    },
                ),
            ],
            None => Vec::new(),
        },
        fid::KEEP_ALIVE_TIMER => vec![("Keep Alive Timeout (KATO)", format!("{value} ms"))],
        fid::HCTM => vec![
            ("Thermal Management Temperature 1 (TMT1)", kelvin(bits(16, 16))),
            ("Thermal Management Temperature 2 (TMT2)", kelvin(bits(0, 16))),
        ],
        fid::NON_OPERATIONAL_POWER_STATE => vec![("Permissive Mode Enable (NOPPME)", on(0))],
        fid::READ_RECOVERY_LEVEL => vec![("Read Recovery Level (RRL)", bits(0, 4).to_string())],
        fid::SANITIZE_CONFIG => vec![("No-Deallocate Response Mode (NODRM)", bits(0, 1).to_string())],
        fid::IO_COMMAND_SET_PROFILE => vec![("Combination index", bits(0, 9).to_string())],
        fid::FLEXIBLE_DATA_PLACEMENT => vec![
            ("Flexible Data Placement Enable (FDPE)", on(0)),
            ("Configuration index", bits(8, 8).to_string()),
        ],
        fid::SOFTWARE_PROGRESS_MARKER => {
            vec![("Pre-boot Software Load Count (PBSLC)", bits(0, 8).to_string())]
        }
        fid::RESERVATION_PERSISTENCE => vec![("Persist Through Power Loss (PTPL)", on(0))],
        fid::NAMESPACE_WRITE_PROTECTION => vec![(
            "Namespace Write Protect",
            match bits(0, 3) {
                0 => "none",
                1 => "write protected",
                2 => "write protected until the power goes",
                3 => "write protected for good",
                _ => "unknown",
            }
            .to_owned(),
        )],
        _ => Vec::new(),
    }
}

fn kelvin(kelvin: u32) -> String {
    format!("{} C ({kelvin} K)", i64::from(kelvin) - 273)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_apart_at_the_bits_of_the_specification() {
        assert_eq!(
            value(fid::NUMBER_OF_QUEUES, 0x0007_0003, &[])[0],
            "  I/O Completion Queues Allocated (NCQA): 8"
        );
        assert_eq!(
            value(fid::TEMPERATURE_THRESHOLD, 0x0010_0157, &[])[2],
            "  Threshold (TMPTH): 70 C (343 K)"
        );
        assert_eq!(value(fid::TEMPERATURE_THRESHOLD, 0x0010_0157, &[])[0], "  Threshold Type (THSEL): under");
        assert_eq!(
            value(fid::ASYNC_EVENT_CONFIGURATION, 0x300, &[])[1],
            "  Notices: namespace attribute, firmware activation"
        );
        assert_eq!(value(fid::TIMESTAMP, 0, &[1, 1, 0, 0, 0, 0, 2, 0])[0], "  Timestamp: 257 ms");
        assert!(value(0xc0, 1, &[]).is_empty());
    }
}
