//! From the one table of keys (docs/keys.yaml) to the reference for people (docs/configuration.md) and the JSON Schema for
//! editors (docs/agent.schema.json). tests/config_schema.rs includes this file and asks the program about the table.

use serde_json::{Map, Value, json};

/// A section of the table: its name, and what is said of it.
pub(crate) struct Section {
    pub(crate) name: String,
    title: String,
    about: String,
    page: Option<String>,
    /// The section whose keys it has, too.
    pub(crate) also: Option<String>,
    pub(crate) keys: Vec<Key>,
}

/// One key, as the table has it.
pub(crate) struct Key {
    pub(crate) name: String,
    said: Value,
}

impl Key {
    fn text(&self, what: &str) -> Option<String> {
        match &self.said[what] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    pub(crate) fn required(&self) -> bool {
        self.said["required"] == true
    }

    /// The values that it may have, if they are few.
    pub(crate) fn choices(&self) -> Option<Vec<String>> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        self.said["is"].as_array().map(|all| all.iter().filter_map(text).collect())
    }

    fn schema(&self) -> Value {
        let scalar = json!({ "type": ["string", "number", "boolean"] });
        let list = json!({ "anyOf": [scalar, { "type": "array", "items": scalar }] });
        let of = |name: Option<String>| json!({ "$ref": format!("#/$defs/{}", name.unwrap_or_default()) });
        let factor = json!({ "type": ["string", "number"] });
        let mut schema = match self.said["is"].as_str() {
            None => json!({ "enum": self.said["is"] }),
            Some("section") => of(self.text("of")),
            Some("sections") => json!({ "type": "object", "additionalProperties": of(self.text("of")) }),
            Some("names") => json!({ "type": "object", "additionalProperties": scalar }),
            Some("values") => json!({ "type": "object", "additionalProperties": list }),
            Some("weights") => json!({
                "type": "object",
                "additionalProperties": { "type": "object", "additionalProperties": factor }
            }),
            Some("texts") => list,
            Some("any") => json!({}),
            Some("flag") => json!({ "type": "boolean" }),
            Some("number") => {
                let mut number = json!({ "type": "integer" });
                for (from, to) in [("from", "minimum"), ("to", "maximum")] {
                    if self.said[from].is_number() {
                        number[to] = self.said[from].clone();
                    }
                }
                number
            }
            Some("factor") => factor,
            Some("size") => json!({ "type": ["string", "integer"] }),
            Some("uuid") => json!({
                "type": "string",
                "pattern": "^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}$"
            }),
            Some("url") => json!({ "type": "string", "pattern": "^https?://" }),
            Some("text" | "template") => json!({ "type": ["string", "number"] }),
            Some(_) => json!({ "type": "string" }),
        };
        if let Some(or) = self.text("or") {
            schema = json!({ "anyOf": [schema, of(Some(or))] });
        }
        let mut about = self.text("about").unwrap_or_default();
        if let Some(default) = self.text("default") {
            about += &format!(" Default: {default}.");
        }
        // Beside a `$ref` older editors read nothing else.
        match schema.get("$ref") {
            Some(_) => json!({ "description": about, "allOf": [schema] }),
            None => {
                schema["description"] = about.into();
                schema
            }
        }
    }
}

/// The table, in its order.
pub(crate) fn read(table: &str) -> Result<Vec<Section>, String> {
    let table: serde_yaml::Mapping = serde_yaml::from_str(table).map_err(|error| error.to_string())?;
    let text =
        |said: &serde_yaml::Value, key: &str| said.get(key).and_then(|text| text.as_str()).map(str::to_owned);
    let section = |(name, said): (serde_yaml::Value, serde_yaml::Value)| {
        let keys = said.get("keys").and_then(|keys| keys.as_mapping()).cloned().unwrap_or_default();
        let key = |(name, said): (serde_yaml::Value, serde_yaml::Value)| {
            let name = name.as_str().ok_or("a key must be a text")?.to_owned();
            let said = serde_json::to_value(said).map_err(|error| error.to_string())?;
            Ok::<Key, String>(Key { name, said })
        };
        Ok(Section {
            name: name.as_str().ok_or("a section's name must be a text")?.to_owned(),
            title: text(&said, "title").ok_or("a section needs a title")?,
            about: text(&said, "about").unwrap_or_default(),
            page: text(&said, "page"),
            also: text(&said, "also"),
            keys: keys.into_iter().map(key).collect::<Result<_, _>>()?,
        })
    };
    table.into_iter().map(section).collect()
}

/// All keys of a section, with those that it shares.
pub(crate) fn keys<'a>(sections: &'a [Section], name: &str) -> Vec<&'a Key> {
    let Some(section) = sections.iter().find(|section| section.name == name) else { return Vec::new() };
    let shared = section.also.as_deref().map(|also| keys(sections, also)).unwrap_or_default();
    shared.into_iter().chain(&section.keys).collect()
}

/// The JSON Schema (draft 7, which editors know).
pub(crate) fn schema(sections: &[Section]) -> Value {
    let object = |keys: Vec<&Key>| {
        let mut properties = Map::new();
        for key in &keys {
            properties.insert(key.name.clone(), key.schema());
        }
        let required: Vec<&str> =
            keys.iter().filter(|key| key.required()).map(|key| key.name.as_str()).collect();
        let mut object = json!({ "type": "object", "additionalProperties": false, "properties": properties });
        if !required.is_empty() {
            object["required"] = json!(required);
        }
        object
    };
    let plugins = sections
        .iter()
        .find(|section| section.name == "collector")
        .and_then(|section| section.keys.iter().find(|key| key.name == "plugin"))
        .and_then(Key::choices)
        .unwrap_or_default();
    let mut definitions = Map::new();
    for section in sections {
        match section.name.as_str() {
            "" | "web" | "collector" => {}
            name if plugins.iter().any(|plugin| plugin == name) => {
                let mut all = keys(sections, "collector");
                all.extend(keys(sections, name));
                definitions.insert(format!("plugin-{name}"), object(all));
            }
            name => {
                definitions.insert(name.to_owned(), object(keys(sections, name)));
            }
        }
    }
    // Which plugin it is decides which keys there are, and an editor says so of the key, not of the whole.
    let each = plugins.iter().map(|plugin| {
        json!({
            "if": { "properties": { "plugin": { "const": plugin } }, "required": ["plugin"] },
            "then": { "$ref": format!("#/$defs/plugin-{plugin}") }
        })
    });
    definitions.insert(
        "collector".to_owned(),
        json!({
            "type": "object",
            "required": ["plugin"],
            "properties": { "plugin": { "enum": plugins } },
            "allOf": each.collect::<Vec<_>>(),
        }),
    );
    let mut schema = object(keys(sections, ""));
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "waldur-usage-agent".into();
    schema["$defs"] = Value::Object(definitions);
    schema
}

/// The reference for people.
pub(crate) fn page(sections: &[Section]) -> String {
    let mut page = "\
# Every key of the configuration

Made of [keys.yaml](keys.yaml), as is [the JSON Schema](agent.schema.json) for editors: put

    # yaml-language-server: $schema=/usr/share/waldur-usage-agent/agent.schema.json

at the top of your file (the packages put it there; or the path of a copy), and an editor with a YAML language server knows every key.
[config/agent.yaml](../config/agent.yaml) shows all of them at work.

- A duration is a number and a unit: `30s`, `15m`, `2h`, `90d`. A size is a number of bytes, or `64KiB`, `16MiB`, `1GiB`.
- A factor is exact: a decimal (`0.25`) or a fraction (`1/3600`).
- A template has labels of a reading in braces: `{user}`.
- Where several texts may stand, one alone needs no list.
- YAML merge keys (`<<`) are not known here; anchors and aliases are.
"
    .to_owned();
    for section in sections {
        page += &format!("\n## {}\n\n", section.title);
        let more = section.page.as_ref().map(|page| format!("[More on this]({page})."));
        let also = section.also.as_ref().and_then(|also| sections.iter().find(|known| known.name == *also));
        let also = also.map(|also| format!("Besides these, the keys of \"{}\".", also.title));
        let about: Vec<String> = [(!section.about.is_empty()).then(|| section.about.clone()), also, more]
            .into_iter()
            .flatten()
            .collect();
        if !about.is_empty() {
            page += &format!("{}\n\n", about.join(" "));
        }
        page += "| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
        for key in &section.keys {
            let value = match (key.choices(), key.text("is").as_deref()) {
                (Some(choices), _) => {
                    choices.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
                }
                (None, Some("section")) => "a section".to_owned(),
                (None, Some("sections")) => "sections, by a name of yours".to_owned(),
                (None, Some("names")) => "texts, by a name of yours".to_owned(),
                (None, Some("values")) => "texts or lists, by label".to_owned(),
                (None, Some("weights")) => "factors, by label and value".to_owned(),
                (None, Some("texts")) => "texts".to_owned(),
                (None, Some("flag")) => "`true` or `false`".to_owned(),
                (None, Some("any")) => "anything".to_owned(),
                (None, other) => other.unwrap_or_default().to_owned(),
            };
            let value = match key.text("example") {
                Some(example) => format!("{value}, such as `{example}`"),
                None => value,
            };
            let default = match (key.required(), key.text("default")) {
                (true, _) => "**required**".to_owned(),
                (false, Some(default)) => default.replace('*', "\\*"),
                (false, None) => String::new(),
            };
            let about = key.text("about").unwrap_or_default().replace('|', "\\|");
            page += &format!("| `{}` | {value} | {default} | {about} |\n", key.name);
        }
    }
    page
}
