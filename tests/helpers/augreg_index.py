"""A small index of AugReg files, in the format of the bucket."""

HEADER = (
  'name,ds,lr,aug,wd,do,sd,best_val,final_val,final_test,adapt_ds,adapt_lr,'
  'adapt_steps,adapt_resolution,adapt_final_val,adapt_final_test,params,'
  'infer_samples_per_sec,filename,adapt_filename'
)
SPEEDS = {'B_16': (86e6, 660.0), 'Ti_16': (5.7e6, 2870.0)}


def line(model, aug, val, adapt_val, data='i21k', adapt='pets', px=224):
  params, speed = SPEEDS.get(model, (36e6, 1700.0))
  epochs = {'i21k_30': 'i21k-30ep'}.get(data, f'{data}-300ep')
  file = f'{model}-{epochs}-lr_0.001-aug_{aug}-wd_0.1-do_0.0-sd_0.0'
  tuned = f'{file}--{adapt}-steps_2k-lr_0.01-res_{px}'
  speed = speed * (224 / px) ** 2
  return (
    f'{model.replace("_", "/")},{data},0.001,{aug},0.1,0.0,0.0,0.5,{val},0.4,'
    f'{adapt},0.01,2000,{px},{adapt_val},0.9,{params:.0f},{speed},{file},{tuned}'
  )


LINES = [
  line('B_16', 'none', 0.47, 0.90),
  line('R26_S_32', 'light0', '', 0.99),
  line('B_16', 'light1', 0.52, 0.91, px=384),
  line('B_16', 'light1', 0.52, 0.93, px=224),
  line('B_16', 'strong2', 0.49, 0.95, adapt='cifar100'),
  line('Ti_16', 'none', 0.35, 0.80),
  line('R26_S_32', 'medium2', 0.44, 0.94),
  line('B_16', 'strong1', 0.80, 0.70, data='i1k'),
  line('R_Ti_16', 'none', 0.30, 0.78, data='i21k_30'),
]
