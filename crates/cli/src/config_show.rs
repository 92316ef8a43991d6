//! `config show`: every value and where it comes from.

use crate::config::Config;
use crate::error::CliError;
use crate::output::Output;

/// Prints the merged configuration.
pub(crate) fn run(config: &Config, out: Output) -> Result<(), CliError> {
    out.data(config, || {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(["KEY", "VALUE", "ORIGIN"]);
        let python = config
            .python
            .value
            .as_ref()
            .map_or_else(|| "python3 on PATH".to_owned(), |path| path.display().to_string());
        let models = &config.models.value;
        let models = if models.is_empty() {
            "(none)".to_owned()
        } else {
            let pairs = models.iter().map(|(name, dir)| format!("{name}={}", dir.display()));
            pairs.collect::<Vec<_>>().join(", ")
        };
        table.add_row([
            "home".into(),
            config.home.value.display().to_string(),
            config.home.origin.to_string(),
        ]);
        table.add_row([
            "port".into(),
            config.port.value.to_string(),
            config.port.origin.to_string(),
        ]);
        table.add_row(["python".into(), python, config.python.origin.to_string()]);
        let requirements = &config.requirements;
        let file =
            requirements.value.as_ref().map_or("(none)".into(), |path| path.display().to_string());
        table.add_row(["requirements".into(), file, requirements.origin.to_string()]);
        let shown = config.otlp.value.as_ref().map_or("(none)".into(), ToString::to_string);
        table.add_row(["otlp".into(), shown, config.otlp.origin.to_string()]);
        let shown = config.metrics.value.map_or("(none)".into(), |addr| addr.to_string());
        table.add_row(["metrics".into(), shown, config.metrics.origin.to_string()]);
        table.add_row(["models".into(), models, config.models.origin.to_string()]);
        table.to_string()
    })
}
