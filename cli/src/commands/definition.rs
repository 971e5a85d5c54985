//! `millrace definition list|get`.

use crate::args::DefinitionCommand;
use crate::client::{Client, Query, segment};
use crate::failure::Outcome;
use crate::input::name_and_version;
use crate::output::{Table, items, show, text};

pub(super) async fn run(command: DefinitionCommand, client: &Client) -> Outcome {
    match command {
        DefinitionCommand::List { namespace, read } => {
            let mut query = Query::default();
            query.add_some("namespace", namespace.as_deref());
            let list = client
                .get(&format!("/api/v1/definitions{}", query.text()))
                .await?;
            show(read.output, &list, |list| {
                let mut table = Table::new(["NAMESPACE", "NAME", "NEWEST", "VERSIONS"]);
                for d in items(list) {
                    let versions = d["versions"].as_array().map_or(0, Vec::len);
                    table.row([
                        text(d, "/namespace"),
                        text(d, "/name"),
                        text(d, "/version"),
                        versions.to_string(),
                    ]);
                }
                table.text("no definitions; `millrace apply FILE` adds one")
            })
        }
        DefinitionCommand::Get {
            definition,
            namespace,
            read,
        } => {
            let (name, version) = name_and_version(&definition);
            let mut path = format!("/api/v1/definitions/{}/{}", segment(&namespace), segment(name));
            if let Some(version) = version {
                path += &format!("/{}", segment(version));
            }
            let definition = client.get(&path).await?;
            show(read.output, &definition, |d| text(d, "/source"))
        }
    }
}
