//! A rule's keys in the file, which are parsed as the flags of `policy rule-add`.

use std::error::Error;

use bus_schema::{RuleId, RuleSpec};
use clap::Parser;
use clap::error::{ContextKind, ContextValue};
use serde::{Deserialize, Serialize};

use super::yaml::Word;
use crate::command::rule;

/// A rule of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "RuleKeys", into = "RuleKeys")]
pub(super) struct RuleItem {
    pub(super) id: RuleId,
    pub(super) spec: RuleSpec,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a rule's keys and values"
)]
struct RuleKeys {
    rule_id: Word,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    direction: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from_endpoint_group: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to_endpoint_group: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from_network: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to_network: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from_ip_address: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to_ip_address: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    action: Option<Word>,
}

/// The flags of `rule-add`, and the keys that stand for them. `port` comes last, since others begin
/// with it.
const KEYS: [(&str, &str); 11] = [
    ("direction", "direction"),
    ("priority", "priority"),
    ("from-group", "fromEndpointGroup"),
    ("to-group", "toEndpointGroup"),
    ("from-network", "fromNetwork"),
    ("to-network", "toNetwork"),
    ("from-ip-address", "fromIpAddress"),
    ("to-ip-address", "toIpAddress"),
    ("protocol", "protocol"),
    ("action", "action"),
    ("port", "port"),
];

/// The parser of `rule-add` for a rule's keys.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct RuleLine {
    #[command(flatten)]
    flags: rule::RuleFlags,
}

impl RuleKeys {
    fn word(&self, key: &str) -> Option<&Word> {
        let word = match key {
            "direction" => &self.direction,
            "priority" => &self.priority,
            "fromEndpointGroup" => &self.from_endpoint_group,
            "toEndpointGroup" => &self.to_endpoint_group,
            "fromNetwork" => &self.from_network,
            "toNetwork" => &self.to_network,
            "fromIpAddress" => &self.from_ip_address,
            "toIpAddress" => &self.to_ip_address,
            "protocol" => &self.protocol,
            "action" => &self.action,
            "port" => &self.port,
            _ => &None,
        };
        word.as_ref()
    }
}

impl TryFrom<RuleKeys> for RuleItem {
    type Error = String;

    fn try_from(keys: RuleKeys) -> Result<Self, String> {
        let at = |reason: String| format!("rule {}: {reason}", keys.rule_id);
        let id = RuleId::new(keys.rule_id.to_string()).map_err(|error| at(error.to_string()))?;
        let typed = KEYS.iter().filter_map(|(flag, key)| {
            let word = keys.word(key)?.to_string();
            (!word.is_empty()).then(|| format!("--{flag}={word}"))
        });
        let typed = RuleLine::try_parse_from(typed).map_err(|error| at(invalid(&error)))?;
        let spec = typed.flags.spec();
        let spec = spec.map_err(|error| at(in_keys(&error.to_string())))?;
        Ok(Self { id, spec })
    }
}

/// The key, the value and the reason of clap's error.
fn invalid(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let argument = text(ContextKind::InvalidArg);
    let flag = argument.split(' ').next().unwrap_or_default();
    let value = text(ContextKind::InvalidValue);
    let reason = match error.source() {
        Some(reason) => reason.to_string(),
        None => format!("write one of {}", text(ContextKind::ValidValue)),
    };
    format!("{} `{value}`: {reason}", in_keys(flag))
}

/// A text about flags as one about keys.
fn in_keys(text: &str) -> String {
    let flags = KEYS.iter().fold(text.to_owned(), |text, (flag, key)| {
        let text = text.replace(&format!("--{flag}="), &format!("{key}: "));
        text.replace(&format!("--{flag}"), key)
    });
    flags.replace("--from-*", "from…").replace("--to-*", "to…")
}

impl From<RuleItem> for RuleKeys {
    fn from(item: RuleItem) -> Self {
        let keys = rule::keys(&item.spec);
        let word = |key: &str| match &keys[key] {
            serde_json::Value::String(text) if text.is_empty() => None,
            serde_json::Value::String(text) => Some(Word::Text(text.clone())),
            serde_json::Value::Number(number) => number.as_u64().map(Word::Number),
            _ => None,
        };
        Self {
            rule_id: Word::Text(item.id.to_string()),
            direction: word("direction"),
            priority: word("priority"),
            from_endpoint_group: word("fromEndpointGroup"),
            to_endpoint_group: word("toEndpointGroup"),
            from_network: word("fromNetwork"),
            to_network: word("toNetwork"),
            from_ip_address: word("fromIpAddress"),
            to_ip_address: word("toIpAddress"),
            protocol: word("protocol"),
            port: word("port"),
            action: word("action"),
        }
    }
}
