from dlskip.workflow import script as script  # before the libraries, whose remarks it silences
