"""Jobs that build, train and measure. Imports core; core and the app never import this."""
