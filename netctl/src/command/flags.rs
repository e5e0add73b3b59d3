//! Flags that several verbs share.

use bus_schema::TenantName;
use bus_schema::command::Removal;
use clap::Args;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{self, Format, Table};

/// The output format of `ls`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListFlags {
    /// Print names only, one per line
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// The same as -o json
    #[arg(long, short, conflicts_with = "output")]
    json: bool,
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

impl ListFlags {
    #[cfg(test)]
    pub(crate) fn quiet() -> Self {
        Self {
            quiet: true,
            json: false,
            output: Format::Table,
        }
    }

    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }

    /// Renders a list: its names, a table, or its JSON documents.
    pub(crate) fn show<T, N: std::fmt::Display>(
        &self,
        all: &[T],
        name: impl Fn(&T) -> N,
        table: impl FnOnce(&[T]) -> Table,
        value: impl Fn(&T) -> Value,
    ) -> Result<String, Failure> {
        if self.quiet {
            return Ok(all.iter().map(|it| format!("{}\n", name(it))).collect());
        }
        match self.format() {
            format if format.is_text() => Ok(table(all).render(format)),
            format => {
                let values = all.iter().map(value).collect();
                output::document(&Value::Array(values), format)
            }
        }
    }
}

/// The output format of `inspect`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InspectFlags {
    /// Accepted for scripts: JSON is the default
    #[arg(long, short, conflicts_with = "output")]
    json: bool,
    /// json, yaml, table (text without empty values), or wide (text with all values)
    #[arg(long, short, value_enum, default_value_t = Format::Json)]
    output: Format,
}

impl InspectFlags {
    pub(crate) fn format(&self) -> Format {
        self.output
    }
}

/// The output format of a verb with one result.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutputFlags {
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

impl OutputFlags {
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }

    /// Prints the outcome: a line, or a document of its type, the line and the object `more`.
    pub(crate) fn outcome(&self, kind: &str, text: &str, more: &Value) -> Result<(), Failure> {
        let format = self.format();
        if format.is_text() {
            return output::print(&format!("{text}\n"));
        }
        let mut value = json!({ "type": kind, "text": text });
        output::extend(&mut value, more);
        output::print(&output::document(&value, format)?)
    }
}

/// The flags of every change.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChangeFlags {
    #[command(flatten)]
    pub(crate) id: IdFlag,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

/// The id that makes a repeated command take effect at most once.
#[derive(Debug, Clone, Args)]
pub(crate) struct IdFlag {
    /// The id of an earlier attempt whose outcome is unknown; the command takes effect at most once
    #[arg(long, value_name = "ID")]
    pub(crate) command_id: Option<bus_schema::CommandId>,
}

/// The tenant of an object.
#[derive(Debug, Clone, Args)]
pub(crate) struct TenantFlag {
    /// The tenant
    #[arg(long, short, value_name = "TENANT", default_value = "default")]
    pub(crate) tenant: TenantName,
}

/// The tenant of a list, or all tenants.
#[derive(Debug, Clone, Args)]
pub(crate) struct TenantsFlags {
    #[command(flatten)]
    of: TenantFlag,
    /// Of all tenants
    #[arg(long, short)]
    all: bool,
}

impl TenantsFlags {
    /// `None`: all tenants.
    pub(crate) fn tenant(&self) -> Option<TenantName> {
        (!self.all).then(|| self.of.tenant.clone())
    }
}

/// The mode of a removal.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct RemovalFlags {
    /// Cancel a removal that waits for nodes, and keep the object
    #[arg(long, conflicts_with = "force")]
    abort: bool,
    /// Remove it although some nodes don't answer; endpoints that they still have in it are closed
    #[arg(long)]
    force: bool,
}

impl RemovalFlags {
    pub(crate) fn mode(self) -> Removal {
        match (self.abort, self.force) {
            (true, _) => Removal::Abort,
            (false, true) => Removal::Force,
            (false, false) => Removal::Close,
        }
    }

    /// The verb of the progress line.
    pub(crate) fn verb(self) -> &'static str {
        if self.abort { "Keeping" } else { "Deleting" }
    }
}
