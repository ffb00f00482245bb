/** Names of the files that reports are written to and made of. */
export const reportFile = "report.html";
/** Beside a run's log: what its classifier got on test images. */
export const resultsFile = "results.json";
