//! What a drive said, as named values: declared once, shown as a table or as JSON.

use std::fmt::Write as _;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A value. JSON knows numbers and texts; people see addresses and bits in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(u128),
    /// A number that people read in hexadecimal.
    Bits(u64),
    Text(String),
    Object(Object),
    List(Vec<Value>),
}

/// A named value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    name: String,
    value: Value,
    /// What people see in place of the value.
    shown: Option<String>,
    /// What `--human-readable` adds.
    notes: Vec<String>,
}

/// Named values in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Object(Vec<Field>);

impl Object {
    fn add(&mut self, name: impl Into<String>, value: Value) -> &mut Self {
        self.0.push(Field { name: name.into(), value, shown: None, notes: Vec::new() });
        self
    }

    pub(super) fn number(&mut self, name: impl Into<String>, value: impl Into<u128>) -> &mut Self {
        self.add(name, Value::Number(value.into()))
    }

    pub(super) fn bits(&mut self, name: impl Into<String>, value: impl Into<u64>) -> &mut Self {
        self.add(name, Value::Bits(value.into()))
    }

    pub(super) fn text(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.add(name, Value::Text(value.into()))
    }

    pub(super) fn object(&mut self, name: impl Into<String>, value: Object) -> &mut Self {
        self.add(name, Value::Object(value))
    }

    pub(super) fn list(
        &mut self,
        name: impl Into<String>,
        items: impl IntoIterator<Item = Object>,
    ) -> &mut Self {
        self.add(name, Value::List(items.into_iter().map(Value::Object).collect()))
    }

    /// What people see in place of the last value.
    pub(super) fn shown(&mut self, text: impl Into<String>) -> &mut Self {
        if let Some(field) = self.0.last_mut() {
            field.shown = Some(text.into());
        }
        self
    }

    /// What `--human-readable` adds to the last value.
    pub(super) fn notes(&mut self, notes: impl IntoIterator<Item = String>) -> &mut Self {
        if let Some(field) = self.0.last_mut() {
            field.notes.extend(notes);
        }
        self
    }

    /// The names of the flags of the last value that are set, as notes.
    pub(super) fn flags<F: bitflags::Flags>(&mut self, flags: F) -> &mut Self {
        let names =
            flags.iter_names().map(|(name, _)| name.to_lowercase().replace('_', " ")).collect::<Vec<_>>();
        self.notes(names)
    }

    /// As lines, with the values below each other.
    pub(super) fn lines(&self, human: bool) -> String {
        let mut out = String::new();
        self.write_lines(&mut out, human, 0);
        out.truncate(out.trim_end().len());
        out
    }

    fn write_lines(&self, out: &mut String, human: bool, indent: usize) {
        let is_scalar = |field: &&Field| !matches!(field.value, Value::Object(_) | Value::List(_));
        let width = self.0.iter().filter(is_scalar).map(|field| field.name.len()).max().unwrap_or(0);
        for Field { name, value, shown, notes } in &self.0 {
            match value {
                Value::Object(object) => {
                    let _ = writeln!(out, "{:indent$}{name}:", "");
                    object.write_lines(out, human, indent + 2);
                }
                Value::List(items) => {
                    for (index, item) in items.iter().enumerate() {
                        match item {
                            Value::Object(object) => {
                                let _ = writeln!(out, "{:indent$}{name} {index}: {}", "", object.one_line());
                            }
                            other => {
                                let _ = writeln!(out, "{:indent$}{name} {index}: {}", "", other.shown());
                            }
                        }
                    }
                }
                scalar => {
                    let text = shown.clone().unwrap_or_else(|| scalar.shown());
                    let _ = writeln!(out, "{:indent$}{name:width$} : {text}", "");
                    for note in notes.iter().filter(|_| human) {
                        let _ = writeln!(out, "{:indent$}{:width$}   {note}", "", "");
                    }
                }
            }
        }
    }

    fn one_line(&self) -> String {
        let part = |field: &Field| {
            format!("{} {}", field.name, field.shown.clone().unwrap_or_else(|| field.value.shown()))
        };
        self.0.iter().map(part).collect::<Vec<_>>().join("  ")
    }
}

impl Value {
    fn shown(&self) -> String {
        match self {
            Value::Number(number) => number.to_string(),
            Value::Bits(bits) => format!("{bits:#x}"),
            Value::Text(text) => crate::output::printable(text.trim_end()),
            Value::Object(object) => object.one_line(),
            Value::List(items) => items.iter().map(Value::shown).collect::<Vec<_>>().join(", "),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Number(number) => serializer.serialize_u128(*number),
            Value::Bits(bits) => serializer.serialize_u64(*bits),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Object(object) => object.serialize(serializer),
            Value::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
        }
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|field| map.serialize_entry(&field.name, &field.value))?;
        map.end()
    }
}

/// Bytes in hexadecimal without anything in between.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes as people read them: offset, 16 bytes, and their text.
pub(super) fn hex_dump(bytes: &[u8]) -> String {
    let line = |(index, chunk): (usize, &[u8])| {
        let codes: String = chunk.iter().map(|byte| format!(" {byte:02x}")).collect();
        let readable = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' };
        format!("{:04x}:{codes:48} \"{}\"", index * 16, chunk.iter().map(readable).collect::<String>())
    };
    bytes.chunks(16).enumerate().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Object {
        let mut inner = Object::default();
        inner.number("ds", 12_u8).bits("flags", 3_u8);
        let mut object = Object::default();
        object.text("sn", "GW1   ").bits("oacs", 0x12_u16).notes(["format".to_owned()]);
        object.number("tnvmcap", u128::MAX).number("temperature", 300_u16).shown("27 C (300 K)");
        object.list("lbafs", [inner.clone(), inner]);
        object
    }

    #[test]
    fn programs_get_numbers_of_any_width_and_text_as_it_is() {
        let json = serde_json::to_string(&example()).unwrap();
        assert_eq!(
            json,
            format!(
                r#"{{"sn":"GW1   ","oacs":18,"tnvmcap":{},"temperature":300,"lbafs":[{{"ds":12,"flags":3}},{{"ds":12,"flags":3}}]}}"#,
                u128::MAX
            )
        );
    }

    #[test]
    fn people_get_columns_units_and_explanations_on_request() {
        let lines = example().lines(false);
        assert!(lines.contains("sn          : GW1\noacs        : 0x12\n"), "{lines}");
        assert!(lines.contains("temperature : 27 C (300 K)\nlbafs 0: ds 12  flags 0x3\n"), "{lines}");
        assert!(!lines.contains("format") && example().lines(true).contains("\n              format\n"));
    }

    #[test]
    fn a_dump_shows_offset_bytes_and_text() {
        let mut bytes = b"NVMe\x1b".to_vec();
        bytes.resize(17, 0);
        let dump = hex_dump(&bytes);
        assert!(dump.starts_with("0000: 4e 56 4d 65 1b 00"), "{dump}");
        assert!(dump.lines().next().unwrap().ends_with("\"NVMe............\""), "{dump}");
        assert!(dump.ends_with("\".\"") && dump.contains("\n0010: 00 "), "{dump}");
    }
}
