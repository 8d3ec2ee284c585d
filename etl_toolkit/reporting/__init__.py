"""From a run directory to charts, notebooks and the analysis page. Opens no database, but for `demonstrations`."""
